"""The words by which `ztcir_sdk.modification.refused` reads what a text refuses."""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["AFTER", "BEFORE", "BEFORE_AT_ONCE", "FILLERS", "PATTERNS", "SHADES", "VALUES", "WANTED"]

VALUES: Mapping[str, str] = {
    "red": "reddish crimson scarlet ruby cherry "
    "rot rote roten roter rotes rotem rojo roja rojos rojas rouge rouges",
    "blue": "bluish blueish azure cobalt "
    "blau blaue blauen blauer blaues blauem azul azules bleu bleue bleus bleues",
    "green": "greenish emerald "
    "grün grüne grünen grüner grünes grünem gruen verde verdes vert verte verts vertes",
    "black": "blackish ebony schwarz schwarze schwarzen schwarzer schwarzes schwarzem "
    "negro negra negros negras noir noire noirs noires",
    "white": "whitish ivory weiß weiss weiße weißen weißer weißes weißem weisse weissen "
    "blanco blanca blancos blancas blanc blanche blancs blanches",
    "yellow": "yellowish lemon gelb gelbe gelben gelber gelbes gelbem "
    "amarillo amarilla amarillos amarillas jaune jaunes",
    "grey": "gray greyish grayish grau graue grauen grauer graues grauem gris grises grise",
    "brown": "brownish chocolate braun braune braunen brauner braunes braunem "
    "marrón marrones marron marrons",
    "pink": "pinkish rosa rosas rose roses",
    "purple": "purplish plum lila violett violet morado morada morados moradas violette violets",
    "orange": "orangish orangefarben naranja naranjas oranges",
    "beige": "beigefarben",
    "gold": "golden goldfarben dorado dorada doré dorée",
    "silver": "silbern silberne silberfarben plateado plateada argenté argentée",
    "navy blue": "navy marineblau",
    "striped": "stripes stripe stripy stripey gestreift gestreifte streifen "
    "rayas rayado rayé rayures",
    "checked": "checks checkered plaid kariert karierte karos cuadros carreaux",
    "dotted": "dots polka gepunktet gepunktete punkte lunares pois",
    "floral": "flower flowers flowery geblümt geblümte blumen floreado flores fleuri fleurs",
    **dict.fromkeys(
        (
            *("maroon", "olive", "cream", "khaki", "turquoise", "teal", "magenta", "mauve"),
            *("lavender", "peach", "tan", "rust", "bronze", "copper", "charcoal", "burgundy"),
            *("mustard", "coral", "aqua", "indigo", "nude", "taupe", "salmon", "lilac", "fuchsia"),
            *("cyan", "ochre", "metallic", "printed", "plain", "multicolor", "multi"),
        ),
        "",
    ),
}
"""A value that is seen -> other words for it, in the languages that the default bundle knows."""

PATTERNS = frozenset({"striped", "checked", "dotted", "floral", "printed", "plain"})
"""The values that are no colours."""

BEFORE = (
    r"don['\u2019]?t include|no longer|(?:can['\u2019]?t|cannot) (?:stand|bear|see)|"
    r"not (?:a|the biggest) fan of|not|"
    r"(?:do|does|did|is|are|was|were|ca|wo|would|should|could|must|need|have|has|ai)n['\u2019]?t|"
    r"cannot|no thanks to|no|never|"
    r"(?:look|looks) (?:awful|pale|ill|terrible|bad|old|tired|washed out)|"
    r"(?:change it|away) from|"
    r"neither|nor|hardly|without|w/o|except(?:ing)?|(?:apart|aside) from|avoid(?:ing)?|minus|less|"
    r"unlike|besides?|stop|already (?:have|has|own|got)|exclud\w+|zero|"
    r"(?:free|far) (?:of|from)|take (?:it|this|them) out of|"
    r"(?:(?:any|every)(?:thing|one)?(?: (?:other )?(?:colou?r|shade|tone|pattern|print))?|"
    r"all(?: (?:the )?colou?rs| of them)?) (?:but|bar)|"
    r"(?:any|every) (?!good|fine|nice|same|similar|size|style|brand|\w+er\b)\w+ "
    r"(?:but|bar)(?! in\b)|"
    r"(?:rather|else) than|(?:an)?other (?:\w+ )?than|different (?:colou?r|shade) than|"
    r"nothing(?! but\b| else\b)|different (?:from|to|than)|instead of|in place of|"
    r"hold the|rule out|ruling out|bar(?:ring)?|(?:i am|i['\u2019]m) over|allergic to|"
    r"(?:hate|loathe|despise|detest|dislike)s?|(?:tired|sick|fed up|bored|enough) "
    r"(?:of|with)|rid of|away (?:from|with)|clear of|anti|spare me|"
    r"lose|drop|skip|ditch|ban|hide|omit|remove|delete|erase|eliminate|forget(?: about)?|"
    r"never mind|(?:filter|leave|take|cut) out|take (?:off|away)|tone down|"
    r"nto|with out|witho?tu|withou|exept|don t|dnt|"
    r"nicht|kein|keine|keinen|keiner|keines|keinem|ohne|außer|ausser|statt|anstatt|nie|niemals|"
    r"weder|nichts(?! au\w+er)|weniger|hasse|auf keinen fall|andere \w+ als|"
    r"sin|nada (?:de|en)|odio|jamás|tampoco|quita|evita\w*|otro color que|"
    r"menos|excepto|salvo|nunca|en vez de|en lugar de|ni|ningún|ninguna|"
    r"moins(?: de)?|rien (?:de|en)|évite\w*|enlève\w*|déteste|autre \w+ que|"
    r"pas|sans|sauf|jamais|plus de|au lieu de|aucun|aucune"
)
"""What refuses a value that follows, with nothing but `FILLERS` between."""
BEFORE_AT_ONCE = r"non|zu|demasiado|trop|too|too much|too many|have enough|got enough|had enough"
"""What refuses a value that follows at once, or after one of `SHADES`."""
AFTER = (
    r"-less\b|-free\b|\? no(?: thanks| thank you)?(?=[,.;!?]|$)|"
    r" (?:(?:ones?|colou?r|really|just|simply|so) )?(?:"
    r"excepted|excluded|aside|away|annoys|already|no more(?! than)|no thanks|no$|"
    r"not (?:included|allowed|wanted|needed|for me|this time|again|please|"
    r"my (?:colou?r|thing|style|taste))|not$|"
    r"(?:(?:isn|won|doesn|can|wouldn|don|aren)['\u2019]?t|(?:is|does|do|will|would|can|are) not)"
    r"(?! (?:(?:be |so )*(?:bad|wrong|an? (?:problem|issue))|matter|care|change|find|mind|hurt|"
    r"bother|forget|want|need|show|have to)\b)|"
    r"(?:is|are|looks?) (?:an? no[ -]?(?:go|no)|out|sold out|taken|forbidden|"
    r"too(?! (?:good|nice))|the wrong|what i don|"
    r"(?:awful|ugly|wrong|horrible|terrible|hideous|bad|boring|dull|disgusting)(?! that\b))|"
    r"makes me look|bores|bothers me|has to go|must go|"
    r"(?:is )?what bothers me|for (?:whatever|something else)|to something else|"
    r"mag ich nicht|hab(?:e)? ich schon|gefällt mir nicht|steht mir nicht|"
    r"no me gustan?|ne me plaît pas|ne me va pas"
    r")(?!\w)"
)
"""What refuses a value that it follows."""
_START = r"(?:^|(?<=[,.;!?¿] )|(?<=¿))"
WANTED = (
    # questions and complaints
    rf"{_START}(?:is|are|do|does|did|could|can|ca|would|should|have|wo)"
    r"(?:n['\u2019]?t (?:you|i|it|this|there|these|they|we)|"
    r"n['\u2019]?t\b(?=[^,.;!?]*(?:\?|better|nicer))|"
    r" (?:you|i|it|this|there|these|they|we) not)\b|"
    rf"{_START}(?:this|that|these|those|it|they)(?: is|['\u2019]?s| are)(?: not|n['\u2019]?t)\b|"
    r"\bwhy (?:not|is there no|(?:don|doesn|isn|can)['\u2019]?t)\b|"
    r"\b(?:is|are) there no\b|\bthere(?:['\u2019]?s| is| are) no\b|\b(?:have|own) (?:no|nothing)\b|"
    r"\bnever (?:had|owned|saw|seen)\b|\b(?:can['\u2019]?t|cannot|could(?:n['\u2019]?t| not)|"
    r"did(?:n['\u2019]?t| not)) (?:find|get|see)\b(?![^,.;!?]* any ?more)|"
    r"\b(?:unfortunately|sadly)\b[^,.;!?]{0,40}?\bnot\b|\bnot(?= \S+ enough)|"
    r"\b(?:shame|pity|too bad|wish|schade|lástima|dommage)\b[^,.;!?]{0,60}?"
    r"(?:not|n['\u2019]?t|nicht|no|pas)\b|"
    r"\b(?:warum|wieso|gibt es|gibts|gibt['\u2019]s|habt ihr|haben sie|hast du|kann|geht|wäre)\b"
    r"[^,.;!?]{0,30}?\b(?:nicht|kein\w*)\b|"
    r"\bno (?:l[oa]s? )?(?:hay|tienes?|tienen|tenéis|está)\b|\bpor ?qu[eé] no\b|\bpourquoi pas\b|"
    r"\b(?:(?:n['\u2019]|ne l['\u2019]|vous l['\u2019])avez(?:[ -]vous)?|"
    r"(?:n['\u2019])?existe(?:[- ]t[- ]il)?|"
    r"y a) pas\b|"
    # all but one
    r"\bnot (?:only|just)\b|\bnicht nur\b|\bno solo\b|\bpas seulement\b|\bif not\b|"
    r"\blive without\b|\b(?:can['\u2019]?t|cannot) (?:\w+ )?without\b|"
    r"\b(?:\w+n['\u2019]?t|not|never|cannot) (?:\w+ ){0,3}any(?:thing)? "
    r"(?:but|besides|except|other than)\b|"
    r"\bnothing except\b|"
    r"\b(?:any|every)thing (?:but|besides|except)(?=[^,.;]{1,40} (?:can|must) go)|"
    r"\bnothing (?:else )?(?:but|than)\b|\bnone (?:other )?(?:but|than)\b|"
    r"\bno (?:\w+ )?other (?:\w+ )?(?:than|but)\b|\bno (?:one|colou?r) but\b|"
    r"\bnothing (?:\w+ )?to wear\b|"
    # something else than this one, in a colour
    r"\b(?:instead of|in place of|rather than|other than|different (?:to|from|than)|besides|"
    r"unlike) (?:this|that|these|those|it)(?: ones?)?(?= (?:in|an?|the|some|show)\b)|"
    # shades, and more
    r"\b(?:not|isn['\u2019]?t) (?:so|too|that) "
    r"(?=(?:an? )?(?:dark|light|bright|pale|deep|strong)\b)|"
    r"\bnicht (?:so|zu) (?=(?:ein\w* )?(?:hell|dunk))|\bno muy (?=oscur|clar)|"
    r"\b(?:al|por lo) menos\b|\b(?:peu|avec) plus de\b|\bno[ -]show\b"
)
"""Refusals in form alone: questions, all but one, too dark a shade."""

SHADES = (
    "dark light bright pale deep pure plain solid strong soft neon pastel sky baby royal inky "
    "jet medium slate coal pitch ash ink blood snow grass lime mint forest hot off dirty "
    "dunkel dunkle dunklem dunklen dunkles hell helle hellem hellen helles oscuro oscura "
    "claro clara foncé clair "
)
FILLERS: frozenset[str] = frozenset(
    (
        SHADES
        + "a an any all the this that these those it its it's of in into with to be been being is "
        "are was were at on as for from so too very really quite much many more most again "
        "anymore ever another other one ones thing things stuff something anything everything "
        "someone colour color colours colors coloured colored shade shades tone tones version "
        "please want wanted like need see show showing get give have has had having wear "
        "wearing take pick choose use bring offer suggest find buy look looks looking make do "
        "love prefer fancy care think me us you he she they we i my your both kind sort bit "
        "hint trace touch sign same piece pieces item items pair print pattern totally "
        "completely entirely believe under no circumstances es das die der den dem des ein "
        "eine einen einem einer im mit von zu sehr mehr wieder farbe farben ton bitte mir "
        "mich ich wir will wollen möchte mag mögen haben zeigen zeig etwas auch schon "
        "unbedingt gerade sein ist sind soll sollte sollen darf als el la los las lo un una "
        "unos unas en de del con que sea sean quiero gusta gustan más mas tono está muy otra "
        "otro le les une du soit je veux plus trop couleur qui est c'est ce cette aime d l "
        "avec "
    ).split()
)
"""Words that may stand between what refuses and a value. Any other names what is refused instead:
"without sleeves in red" refuses no red."""
