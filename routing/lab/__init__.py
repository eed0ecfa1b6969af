"""The lab: replays a table of prompts x models through the engine of the gateway, beside simpler rules."""
