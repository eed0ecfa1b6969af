"""Words that tell what a request is about, in some fifteen languages; :mod:`routing.cues` looks them up.

A cue is a whole word, or the beginning of one when it ends in ``*``; accents and case do not count. Languages
that write no spaces are searched for the cue itself. Weights are in the units of the classifier's scores, where
three points for one task over all others are near-certainty.
"""

from collections.abc import Mapping

WORDS: Mapping[str, Mapping[float, str]] = {
    "coding": {
        4.0: """
            python* javascript html css sql git regex*
        """,
        3.0: """
            python* javascript typescript kotlin golang rust haskell lisp java php bash sql mysql sqlite
            postgres* html css docker* kubernetes react django flask fastapi tailwind pandas numpy cuda git npm
            regex* code quellcode codice codigo kod kodu kodunda kodi код* kernel compil* komp*ilator debug*
            refactor* refaktor* unittest* nullpointer* deadlock* горутин* mutex microservic* websocket* linux
            typeerror stacktrace crash* script* skript* скрипт* программу recursionerror modulenotfounderror c#
            ordenador segfault kafka redis worker воркер* lua orm endpoint* yaml dockerfile print* линукс*
            ошибк* regular* expression* ausdruck*
        """,
        2.0: """
            function* funktion* fonction* funcion* funzion* funcao functie* funkcj* fonksiyon* implement*
            commit branch api backend frontend cache bug* login asyncio thread* bytecode parser* parseur async
            repo class classe klasse method algorithm* refresh deploy* database* datenbank* programming
            migration* scheduler integer array* lru quicksort interpret* idempot* kompilator* merge
        """,
        1.0: """
            query requete consulta server* serv* schema node file datei fichier plik archivo test* variable
            loop for engine motor* string tabla* implementation* queue architect* arkhitekt* website component*
            library performance javascriptu design* pagination
        """,
    },
    "creative": {
        3.2: """
            poem* poet* haiku limerick sonnet* lyrics rap slogan* joke* riddle screenplay* monologue* fable*
            gedicht* marchen* liedtext* witz* reim* drehbuch* novelle poeme* chanson* blague* slogan poema*
            chiste* eslogan cuento* cancion* novela relato* racconto* poesia filastrocca favola barzelletta
            canzone sceneggiatura piada* roteiro verhaal liedje* grap grappig* sinterklaasgedicht sprookje*
            opowiadan* wiersz* zart* bajk* piosenk* стих* рассказ рассказа сказк* песн* шутк* анекдот* пьес*
            oyku* hikaye* siir* fikra* sarki* masal* worldbuilding story stories storytelling novel* tale*
            rhyme* novella ballad* endecasilabos screenwriter backstory shortstory сюжет* pesn*
        """,
        2.0: """
            geschichte erzahl* romance roman* dialogue* dialog* scene scena szene scenes escena chapter lullaby
            invent* erfind* imagine verzin* bedenk* придумай* сочини* wymysl* inventa* crie cria narrat*
            protagonist* villain character* personnage* personaj* personagg* bohater* персонаж* роман* conte
            conto guion bibbia biblia serie tweet tagline spruch lustig* funny witty playful satir* antagonist*
            heist fantasy fantasywereld sitcom toast frase romantic* monolog* prolog* epilog* chapitre
        """,
        1.0: """
            song lied letra style stil manner tone voice voix character metaphor* allegor* melanchol* ending
            finale final* words zeilen versi strof* birthday valentin* scenariusz* сцен* mood
        """,
    },
    "summarization": {
        4.0: """
            summar* tldr recap* gist takeaway* condens* upshot zusammenfass* zusammengefasst kernaussage*
            resum* synthes* synthetis* sintesi* sintetiz* sintetizz* riassu* samenvat* stresc* streszcz*
            podsumuj* выжимк* перескаж* суммир* ozet* syntez*
        """,
        2.5: """
            informe fass fasse vat samen outline* digest кратко обзор* тезис* synopsis briefing notulen
        """,
        1.2: """
            points article artikel* artigo articolo articulo transcript* minutes report* bericht* rapport*
            protok* abstract* stichpunkt* bullet* overview review* makale* стать* отчет* informe* sentenc* notes
            breve frase satz
        """,
    },
    "extraction": {
        3.8: """
            extract* extrah* extrai* extrae* estrai* wyodrebn* wypisz* извлек* выпиш* выдели* extrahier*
            classif* clasific* klassif* categor* kategor* sentiment* spam labelled deduplic* dedupe coreferenc*
            coreferenz* extrahera cikar
        """,
        2.0: """
            classe clasifica mentioned json csv parse label* positiv* negativ* entit* structur* identif*
            identifi* tabular* haal ordne trova normali* zet columns klassifi* fields champs spalten jsona табл*
            tablo* column liste* enumer*
        """,
        1.0: """
            names dates emails addresses numbers tabelle* table* tabla tableau tabella tabela tabel tabeli nur
            only seulement solo so alleen tylko same только list* null mentioned invoice* factura* rechnung*
            numero* phone* telefon* телефон* obligation* obligacion* oblig* zobowiaz* обязательств* transform*
            convert* resume cv dosag*
        """,
    },
    "math": {
        3.2: """
            prove proof proofs wurzel inequal* disuguaglianz* desigual* ungleichung* kapital zins* percent*
            prozent* beweis* demontr* prouv* demuestr* demostr* dimostr* demonstr* udowodn* докаж* kanitla*
            bewijs* theorem* theoreme* teorem* теорем* equation* gleichung* ecuacion* equazion* equac* rownan*
            уравнен* denklem* nierown* integral* derivative* ableitung derivada* derivata* производн* интеграл*
            probab* wahrscheinlich* prawdopodob* вероятн* matrix matrice matriz matri* матриц* polynom*
            factorial sqrt karekok* eigenval* autoval* oblicz* berechn* bereken* calcul* hesapla* вычисл*
            quadrat* trigonom* умнож* solve oppervlakte
        """,
        2.0: """
            integrate fraction* fraccion* fracao frazion* bruch moyenne mittelwert raiz racine radice
            pierwiast* halla resoudre resolv* risolv* реши* найдите rozwiaz* los derive* compute triang*
            trojkat* dreieck* perimetr* area tangent* limite grenzwert lemma* irrational* convert* simplifi*
            bijec* group groups percent prozent metrico metric* compact* kompakt* hilbert* banach* konverg*
            converg* holomorph* rechne divis* diviso fahrenheit marbles kapital* compounded zins* verzins*
        """,
        1.0: """
            find show sum product finite minimal function* funktion* steps schritt* combien quant* ile сколько
            kac hoeveel how viel determine* quadrado uniqueness speed km invest
        """,
    },
    "qa": {
        2.0: """
            por porque wieviel warum cuanto* analyse cuantos cuantas explain* erklar* expliqu* explic* explique
            spieg* uitleg* wyjasn* объясн* acikla* difference* unterschied* diferenci* differenz* verschil*
            roznic* разниц* why wieso weshalb pourquoi perche dlaczego почему чому neden waarom who wer qui
            quien chi quem kto кто кому when wann quando wanneer kiedy когда whats cause causes caus* capital*
            hauptstadt invented discovered
        """,
        1.3: """
            does какие tension* tensiones role rolle jurisprud* principes what which where how was wo welche*
            wie quel* quand ou comment est cual* cuant* donde como dove quale qual onde quant* wat waar welk*
            hoeveel co gdzie jak jaki* ile что где как какой* какая* hangi ne nasil kim vilken compare compar*
            vergleich* confront* сравни* porowna* karsilastir* analy* analiz* анализ* проанализ* evaluat*
            assess* critical* kritisch* theor* histor* argument* mechanism* mecanism* implic* extent implicat*
            inwiefern bewerte*
        """,
        0.6: """
            is are does do did can ist sind hat come work works funktioniert funcion* fonctionne true countries
            war
        """,
    },
    "general": {
        3.4: """
            translat* ubersetz* tradui* traduc* traduz* vertaal* przetlumacz* переведи* cevir* rewrite rephras*
            reformul* umformul* rewording proofread* grammar grammatik hello hallo bonjour hola ciao ola czesc
            hej привет merhaba selam thanks thank danke merci gracias obrigad* grazie dziekuj* спасибо tesekkur*
            morgen hi charlamos
        """,
        2.2: """
            email mail* maila mejl* courriel* correo* plan plans planning planen plano plany piano strateg*
            стратег* itinerar* recommend* empfiehl* consigli* recomend* recomm* suggest* budget* bewerb*
            sollicit* резюме menu* speisepl* packing interview* negotiat* nego* job boss chef weekend* trip
            travel viaje reise* corrige procrastinat* reunion colleague* busines* konzept* politica geburtstag
            help hilf* aide* ayud* ajud* aiut* pomoc* pomoz* помоги* yardim* help* konvent* should
        """,
        1.0: """
            my mein* mon ma mi mio minha meu mijn moj* мой me i we our family friend* partner letter brief
            lettre carta list tips advice rat conseil* consejo* stakeholder* risk* risiken kpi* szenari*
            scenari* kunden client cronogram* calendar* indicator* metric* finanz* prepar* organiz* entwickl*
            polite freundlich* scenario* finances gracios* taxes
        """,
    },
    "vision": {
        1.5: """
            photo* foto* image* picture* bild* screenshot* imagen* immagin* imagem zdjec* фото* gorsel*
        """,
    },
}

SPACELESS: Mapping[str, Mapping[float, str]] = {
    "coding": {
        3.0: "代码 编程 爬虫 字符串 コード 関数 メソッド 파이썬 코드 架构 数据库 后端 线程 単体テスト",
        1.5: "実装 实现 分布式 接口 リスト 高并发 消息队列 表结构",
    },
    "creative": {
        3.2: "诗 故事 小说 笑话 童话 歌词 剧本 口号 话剧 散文 物語 俳句 短編 小説 川柳 プロット 이야기 소설",
        2.0: "起三 有趣的名字 创作 台词 一句詠 第一章 描写 人物 起个",
    },
    "summarization": {
        3.8: "总结 概括 摘要 综述 归纳 要約 まとめ 要点 요약 综合以下",
        1.0: "主要观点 主要内容 议事 議事録 一句话",
    },
    "extraction": {
        3.8: "提取 抽取 找出 分类 标注 抜き出 抽出 分類 추출 肯定的",
        2.0: "整理成 JSON json 表格 格式输出 正規化",
    },
    "math": {
        3.2: "证明 计算 方程 数列 矩阵 概率 积分 极值 証明 求めよ 計算 積分 確率 行列 公式 いくつですか 等于多少",
        1.5: "求 函数 関数 区间 公差 群 度量",
    },
    "qa": {
        2.0: "为什么 什么 区别 谁 哪 なぜ 何ですか 誰 どこ 違い 説明して 解释 왜 무엇 何で",
        1.3: "比较 分析 评价 論じ 比較 論じて 詳しく 如何 怎么 どの いつ 関係",
    },
    "general": {
        3.2: "翻译 翻訳 你好 谢谢 ありがとう こんにちは メール 邮件 计划 プラン 战略 おすすめ 建议我 方案 안녕 번역",
        1.2: "帮我 我想 我们 制定 教えて ください 旅行",
    },
    "vision": {1.5: "图片 照片 截图 写真 画像 사진"},
}

COMPLEX_WORDS = """
    prove proof* beweis* demontr* demuestr* dimostr* udowodn* докаж* kanitla* derive* deduce deduire herleit*
    generali* verallgemein* counterexampl* contraejempl* contre* gegenbeispiel classify construct* characteri*
    design* entwirf* entwurf* concois concevoir disena* disen* progett* zaprojekt* спроект* разработ* tasarla*
    architect* architektur* architettur* arquitect* архитект* distribut* verteilt* concurren* nebenlauf*
    konkurren* tradeoff* compromis* compromess* kompromis* implement* engine motor kernel database compiler
    compilat* compare* compar* vergleich* confront* сравни* сопостав* porowna* karsilastir* vergelijk* analy*
    analiz* анализ* проанализ* evaluat* eval* assess* bewert* valut* avali* valor* ocen* оцен* beoordel*
    critical* kritisch* critic* justif* begrund* giustific* обосн* gerekce* uzasad* onderbouw* contradict*
    widerspr* contradic* contradd* sprzeczn* противореч* celis* tegenstrijd* conflict* konflikt* reconcil*
    riconcil* abgleich* synthes* synthet* sintesi sintesis syntez* comprehensive systematic* umfassend scenario*
    scenari* szenari* сценари* senaryo* risk* risiken riesgo* rischi* risco* ryzyk* риск* risque* strateg*
    стратег* stakeholder* regulat* governance gouvernance governanza compliance migrat* rollback mitigat*
    narrat* erzahler* protagonist* subplot* subtext* timeline* leitmotiv* motif* arc arcs arcos archi factions
    allegor* prolog* acts actes atti chapters kapitel* capitulo* worldbuilding epic* roman normali* canonical*
    resolve* nested verschachtel* cross knowledge graph* icd* ambiguous coreferenc* confidence invariant*
    idempot* consistency latency fairness theorem* satz extent mesure medida inwiefern implicat* implicaz*
    mechanism* mecanism* hypothes* assumption* annahm* ipotesi hipotes*
"""
SIMPLE_WORDS = """
    hi hello hallo hola ciao bonjour thanks thank danke merci short kurz* court* corto* cortito breve* brief
    quick* rapido* one word satz sentence zdaniem phrase frase frase* linha line joke* haiku slogan* names name
    only nur solo seulement tylko capital hauptstadt wer who when wann quand kiedy quien how what was is witz
    chiste piada krotki wierszyk* limerick кратко просто cumleyle zin kac ile combien quanto cuanto сколько
    hoeveel viel convert*
"""
SPACELESS_COMPLEX = """
    证明 証明 设计 設計 分析 比较 比較 评价 論じ 矛盾 架构 推广 情景 风险 战略 综合 综述 评估 方案 系统 伏線
    时间线 权衡 理由 根拠 归纳 交织 主题 嵌套 正規化 引用 整体 剧本 大纲 长编 長編 耐 誤差 导出 分布式 唯一 体系
"""
SPACELESS_SIMPLE = "一句 一行 简单 怎么 什么是 何ですか 教えて 多少 いくつ 谁 名字 一首 你好 翻译 だけ 方法"

# Phrases whose words say little one by one.
PHRASES: Mapping[str, tuple[str, float]] = {
    "tl;dr": ("summarization", 4.0),
    "sum up": ("summarization", 3.0),
    "main points": ("summarization", 2.5),
    "key points": ("summarization", 2.5),
    "boil down": ("summarization", 3.0),
    "show notes": ("summarization", 3.0),
    "puntos clave": ("summarization", 2.0),
    "de qué va": ("summarization", 2.5),
    "name for": ("creative", 2.5),
    "names for": ("creative", 2.5),
    "in the style of": ("creative", 1.5),
    "how do you say": ("general", 4.0),
    "como se diz": ("general", 4.0),
    "cómo se dice": ("general", 4.0),
    "comment dit-on": ("general", 4.0),
    "should i ": ("general", 1.5),
    "help me": ("general", 1.5),
    "pros and cons": ("general", 2.5),
    "cover letter": ("general", 2.5),
    "how are you": ("general", 4.0),
    "fix the grammar": ("general", 3.0),
    "square root": ("math", 3.0),
    "show that": ("math", 2.5),
    "zeige, dass": ("math", 2.5),
    "to what extent": ("qa", 2.0),
    "as json": ("extraction", 1.5),
    "into json": ("extraction", 2.0),
    "into a csv": ("extraction", 2.0),
    "to json": ("extraction", 1.5),
    "en json": ("extraction", 1.5),
    "als json": ("extraction", 1.5),
    "a json": ("extraction", 1.5),
    "w formacie json": ("extraction", 1.5),
    "knowledge graph": ("extraction", 1.5),
    "hello world": ("coding", 5.0),
    "race condition": ("coding", 2.0),
    "c++": ("coding", 3.0),
    " in c?": ("coding", 3.0),
}
