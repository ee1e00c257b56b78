"""Surface forms of attribute values: "Navy Blue" as "navy blue", "navy" or "dark blue".

Each grammatical *slot* has its weighted forms of a value. The value itself in lower case is by far
the most frequent form, so that a catalogue's own vocabulary is learnt first.

| kind | slot | example | "Tshirts" / "Women" / "striped" |
|---|---|---|---|
| all | ``plain`` | "colour: {new}", "show me {new}" | tshirts / women / striped |
| colour, type, pattern | ``a`` | "i want {new_a} one", "it is {new_a}" | a tshirt / - / a striped |
| type | ``np`` | "turn it into {new_np}" | tshirts, or a tshirt |
| gender | ``for`` | "one for {new_for}" | women, a woman, her |
| gender | ``poss``, ``possa`` | "the {new_poss} version" | women's / a women's |
| pattern | ``noun`` | "with {new_noun}" | stripes, a striped pattern |
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np

SLOTS: dict[str, tuple[str, ...]] = {
    "colour": ("plain", "a"),
    "type": ("plain", "a", "np"),
    "gender": ("plain", "for", "poss", "possa"),
    "pattern": ("plain", "a", "noun"),
}

_RAW_SHARE = 0.7  # share of a slot's draws; high, because some slots have a lower share

_COLOURS: dict[str, str] = {
    "beige": "sand|beige toned|oatmeal",
    "black": "jet black|pitch black|inky black|coal black",
    "blue": "bright blue|medium blue|cobalt blue|royal blue|sky blue|light blue",
    "bronze": "bronze toned|bronzed",
    "brown": "chocolate brown|chocolate|dark brown|brownish",
    "burgundy": "wine|wine red|bordeaux|burgundy red",
    "charcoal": "charcoal grey|charcoal gray|dark grey|dark gray|anthracite",
    "coffee brown": "coffee|coffee coloured",
    "copper": "copper toned|coppery",
    "cream": "creamy|cream coloured|creme",
    "fluorescent green": "neon green|fluorescent|fluo green",
    "gold": "golden|gold toned|gold coloured",
    "green": "bright green|grass green|emerald green|forest green|leaf green|greenish",
    "grey": "gray|greyish|medium grey|ash grey|slate grey|light grey|light gray",
    "grey melange": "gray melange|heather grey|heather gray|melange grey|marled grey",
    "khaki": "khaki coloured|khakhi|khaki green",
    "lavender": "lilac|light purple|lavender coloured|pale purple",
    "lime green": "lime|lime coloured",
    "magenta": "fuchsia|magenta pink|hot pink",
    "maroon": "dark red|deep red|oxblood|maroon red",
    "mauve": "mauve coloured|dusty purple",
    "metallic": "metal coloured|shiny metallic",
    "multi": "multicoloured|multi coloured|multicolour|multicolor|multi-coloured|colourful",
    "mushroom brown": "mushroom|mushroom coloured",
    "mustard": "mustard yellow|dark yellow|ochre",
    "navy blue": "navy|dark blue|navy-blue|midnight blue|navy coloured",
    "nude": "nude coloured|nude toned",
    "off white": "off-white|offwhite|ecru|ivory",
    "olive": "olive green|olive-green|army green",
    "orange": "bright orange|tangerine|pumpkin orange|orangey",
    "peach": "peach coloured|peachy|apricot|salmon pink",
    "pink": "pinkish|bubblegum pink|baby pink|light pink",
    "purple": "violet|deep purple|grape purple|plum purple|purplish",
    "red": "bright red|scarlet|crimson|ruby red|cherry red|reddish",
    "rose": "rose pink|rose coloured",
    "rust": "rust coloured|rusty|rust orange",
    "sea green": "sea-green|seafoam|seafoam green",
    "silver": "silvery|silver toned|silver coloured|silver grey",
    "skin": "skin coloured|skin tone|skin-coloured",
    "steel": "steel grey|steel gray|steel coloured",
    "tan": "light brown|tan brown",
    "taupe": "taupe coloured|grey brown",
    "teal": "teal blue|blue green|teal coloured|petrol blue",
    "turquoise blue": "turquoise|aqua|aqua blue",
    "white": "pure white|snow white|bright white|whitish",
    "yellow": "bright yellow|lemon yellow|canary yellow|sunny yellow|yellowish",
}

# name -> other plurals or names | singulars (the first beside the name itself), comma-free
_COUNTABLE: dict[str, tuple[str, str]] = {
    "backpack": ("backpacks|back packs|school bags", "backpack|back pack|school bag"),
    "boot": ("boots|ankle boots", "boot|ankle boot"),
    "dress": ("dresses|frocks|gowns", "dress|frock|gown"),
    "handbag": ("handbags|hand bags|purses", "handbag|hand bag|purse"),
    "jacket": ("jackets|zip jackets", "jacket|zip jacket"),
    "shirt": ("shirts|button-up shirts|collared shirts", "shirt|button-up shirt|collared shirt"),
    "sneaker": ("sneakers|trainers", "sneaker|trainer"),
    "t-shirt": ("t-shirts|tees|t shirts|tshirts", "t-shirt|tee|t shirt|tshirt"),
    "accessory gift set": ("accessory gift sets", "accessory gift set|accessories gift set"),
    "baby dolls": ("babydolls|babydoll nighties", "baby doll|babydoll"),
    "backpacks": ("back packs|school bags", "backpack|back pack|school bag"),
    "bangle": ("bangles", "bangle"),
    "basketballs": ("basket balls", "basketball|basket ball"),
    "bath robe": ("bath robes|bathrobes", "bath robe|bathrobe"),
    "beauty accessory": ("beauty accessories|beauty tools", "beauty accessory|beauty tool"),
    "belts": ("waist belts", "belt|waist belt"),
    "blazers": ("suit jackets", "blazer|suit jacket"),
    "bra": ("bras|brassieres", "bra|brassiere"),
    "bracelet": ("bracelets", "bracelet"),
    "camisoles": ("camis|spaghetti tops", "camisole|cami"),
    "caps": ("baseball caps|peaked caps", "cap|baseball cap"),
    "clothing set": ("clothing sets|outfit sets", "clothing set|outfit set"),
    "clutches": ("clutch bags|clutch purses", "clutch|clutch bag|clutch purse"),
    "cushion covers": ("pillow covers", "cushion cover|pillow cover"),
    "dresses": ("frocks|gowns", "dress|frock|gown"),
    "duffel bag": ("duffel bags|duffle bags|duffels", "duffel bag|duffle bag|duffel"),
    "dupatta": ("dupattas|chunnis", "dupatta|chunni"),
    "footballs": ("soccer balls", "football|soccer ball"),
    "fragrance gift set": ("fragrance gift sets|perfume gift sets", "fragrance gift set"),
    "free gifts": ("freebies|promotional gifts", "free gift|freebie"),
    "hair accessory": ("hair accessories", "hair accessory"),
    "handbags": ("hand bags|purses|ladies bags", "handbag|hand bag|purse"),
    "hat": ("hats|sun hats", "hat|sun hat"),
    "headband": ("headbands|hair bands", "headband|hair band"),
    "innerwear vests": ("undershirts|inner vests|innerwear", "innerwear vest|undershirt"),
    "ipad": ("ipads", "ipad"),
    "jackets": ("outdoor jackets|zip jackets", "jacket|outdoor jacket"),
    "jewellery set": ("jewellery sets|jewelry sets", "jewellery set|jewelry set"),
    "jumpsuit": ("jumpsuits|jump suits", "jumpsuit|jump suit"),
    "key chain": ("key chains|keychains|key rings", "key chain|keychain|key ring"),
    "kurta sets": ("kurta suits", "kurta set|kurta suit"),
    "kurtas": ("indian tunics|kurta tops", "kurta|indian tunic"),
    "kurtis": ("kurti tops|short kurtas", "kurti|short kurta"),
    "laptop bag": ("laptop bags|laptop cases", "laptop bag|laptop case"),
    "lehenga choli": ("lehenga cholis|lehengas", "lehenga choli|lehenga"),
    "lip liner": ("lip liners|lip pencils", "lip liner|lip pencil"),
    "lipstick": ("lipsticks|lip sticks", "lipstick|lip stick"),
    "lounge tshirts": ("lounge t-shirts|lounge tees", "lounge tshirt|lounge t-shirt"),
    "mens grooming kit": ("grooming kits", "mens grooming kit|grooming kit|shaving kit"),
    "messenger bag": ("messenger bags|shoulder bags", "messenger bag|shoulder bag"),
    "mobile pouch": ("mobile pouches|phone pouches", "mobile pouch|phone pouch|phone case"),
    "mufflers": ("winter scarves|woollen scarves", "muffler|winter scarf"),
    "nehru jackets": ("indian waistcoats", "nehru jacket"),
    "nightdress": ("nightdresses|nighties|nightgowns", "nightdress|nightie|nightgown"),
    "pendant": ("pendants", "pendant"),
    "rain jacket": ("rain jackets|raincoats", "rain jacket|raincoat"),
    "ring": ("rings|finger rings", "ring|finger ring"),
    "robe": ("robes|dressing gowns", "robe|dressing gown"),
    "rompers": ("baby rompers|onesies", "romper|baby romper|onesie"),
    "rucksacks": ("hiking packs|hiking rucksacks", "rucksack|hiking rucksack"),
    "salwar and dupatta": ("salwar dupatta sets", "salwar and dupatta set"),
    "sarees": ("saris", "saree|sari"),
    "scarves": ("scarfs|neck scarves", "scarf|neck scarf"),
    "shirts": ("button-up shirts|button-down shirts|collared shirts", "shirt|button-up shirt"),
    "shrug": ("shrugs|boleros", "shrug|bolero"),
    "skirts": ("mini skirts", "skirt"),
    "stoles": ("wraps|shawls", "stole|shawl|wrap"),
    "sweaters": ("jumpers|pullovers|knit sweaters", "sweater|jumper|pullover"),
    "sweatshirts": ("sweat shirts|hoodies", "sweatshirt|sweat shirt|hoodie"),
    "tablet sleeve": ("tablet sleeves|tablet cases", "tablet sleeve|tablet case"),
    "ties": ("neckties|neck ties", "tie|necktie"),
    "tops": ("ladies tops|women tops", "top"),
    "tracksuits": ("track suits|jogging suits", "tracksuit|track suit"),
    "travel accessory": ("travel accessories", "travel accessory"),
    "trolley bag": ("trolley bags|suitcases|trolleys", "trolley bag|suitcase|trolley"),
    "tshirts": ("t-shirts|tees|t shirts|tee shirts", "tshirt|t-shirt|tee|t shirt"),
    "tunics": ("tunic tops", "tunic|tunic top"),
    "umbrellas": ("brollies", "umbrella"),
    "waist pouch": ("waist pouches|bum bags|fanny packs", "waist pouch|bum bag|fanny pack"),
    "waistcoat": ("waistcoats|suit vests", "waistcoat|suit vest"),
    "wallets": ("billfolds|leather wallets", "wallet|billfold"),
    "watches": ("wristwatches|wrist watches|timepieces", "watch|wristwatch|wrist watch"),
    "water bottle": ("water bottles|drinking bottles", "water bottle|drinking bottle"),
}

# name -> other plurals | singulars; said as "a pair of ..."
_PAIRS: dict[str, tuple[str, str]] = {
    "booties": ("baby booties|ankle booties", "bootie"),
    "boxers": ("boxer shorts", "boxer"),
    "briefs": ("underpants|undies|underwear briefs", "brief"),
    "capris": ("capri pants|three quarter pants|cropped pants", "capri"),
    "casual shoes": ("casual footwear|everyday shoes|sneakers", "casual shoe"),
    "churidar": ("churidars|churidar pants", ""),
    "cufflinks": ("cuff links", "cufflink"),
    "earrings": ("ear rings|ear studs", "earring"),
    "flats": ("flat shoes|ballet flats|ballerinas", "flat shoe"),
    "flip flops": ("flip-flops|flipflops|thongs|slippers", "flip flop"),
    "formal shoes": ("dress shoes|smart shoes|office shoes", "formal shoe"),
    "gloves": ("hand gloves|mittens", "glove"),
    "heels": ("high heels|heeled shoes|high heeled shoes|pumps", "heel|high heel"),
    "jeans": ("denims|denim jeans|denim pants", "jean"),
    "jeggings": ("jegging pants|denim leggings", "jegging"),
    "leggings": ("legging pants|stretch leggings", "legging"),
    "lounge pants": ("pyjama pants|pajama pants|pyjamas", "lounge pant"),
    "lounge shorts": ("pyjama shorts|pajama shorts|sleep shorts", ""),
    "patiala": ("patialas|patiala pants", ""),
    "rain trousers": ("rain pants|waterproof trousers", ""),
    "salwar": ("salwars|shalwar|salwar pants", ""),
    "sandals": ("open shoes|strappy sandals", "sandal"),
    "shoe laces": ("shoelaces|laces", "shoe lace"),
    "shorts": ("short pants|bermudas", ""),
    "socks": ("ankle socks|sox", "sock"),
    "sports sandals": ("sport sandals|outdoor sandals|trekking sandals", "sports sandal"),
    "sports shoes": ("sport shoes|trainers|running shoes|athletic shoes", "sports shoe|sport shoe"),
    "stockings": ("nylon stockings|nylons", "stocking"),
    "sunglasses": ("shades|sun glasses|sunnies", ""),
    "suspenders": ("braces|trouser braces", ""),
    "tights": ("opaque tights", ""),
    "track pants": ("trackpants|joggers|tracksuit bottoms|sweatpants", "track pant"),
    "trousers": ("pants|slacks|chinos", "trouser"),
    "trunk": ("trunks|boxer trunks", ""),
    "wristbands": ("wrist bands|sweatbands", "wristband"),
}

# name -> other names; said without an article
_MASS: dict[str, str] = {
    "body lotion": "body cream|moisturising lotion",
    "body wash and scrub": "body wash|body scrub|shower gel",
    "compact": "compact powder|face powder",
    "concealer": "cover stick|under-eye concealer",
    "deodorant": "deo|deodorants|deodorant spray",
    "eye cream": "under-eye cream|eye creams",
    "eyeshadow": "eye shadow|eye shadows|eyeshadows",
    "face moisturisers": "face cream|face moisturizer|face moisturiser|moisturizers",
    "face scrub and exfoliator": "face scrub|exfoliator|facial scrub",
    "face serum and gel": "face serum|face gel|facial serum",
    "face wash and cleanser": "face wash|facial cleanser|cleanser",
    "foundation and primer": "foundation|primer|makeup foundation",
    "hair colour": "hair color|hair dye",
    "highlighter and blush": "blush|highlighter|blusher",
    "kajal and eyeliner": "kajal|eyeliner|eye liner|kohl",
    "lip care": "lip balm|chapstick",
    "lip gloss": "lip glosses|lipgloss",
    "lip plumper": "lip plumping gloss",
    "makeup remover": "make-up remover|makeup cleanser",
    "mascara": "mascaras|eyelash mascara",
    "mask and peel": "face mask|face masks|peel-off mask",
    "nail essentials": "nail care|nail care products",
    "nail polish": "nail varnish|nail polishes|nail paint",
    "necklace and chains": "necklaces|necklace|chains|a necklace",
    "night suits": "nightsuits|nightwear|a night suit|pyjama sets|pajama sets",
    "perfume and body mist": "perfume|perfumes|body mist|fragrance",
    "shapewear": "shaping underwear|body shaper",
    "shoe accessories": "shoe care|accessories for shoes",
    "sunscreen": "sun cream|suncream|sun lotion|sunblock",
    "swimwear": "swimsuit|swimsuits|bathing suit|a swimsuit",
    "ties and cufflinks": "tie and cufflinks|tie and cufflink sets",
    "toner": "face toner|skin toner",
}

_GENDERS: dict[str, dict[str, str]] = {
    "men": {
        "plain": "man|male|males|guys|gents|gentlemen|menswear",
        "for": "a man|him|guys|gents|gentlemen|males|my husband|my boyfriend|a guy|adult men"
        "|my dad|my brother|my father|my uncle|my grandfather|a gentleman",
        "poss": "men's|men's|men's|mens|male|gents|guys'|men's|masculine",
    },
    "women": {
        "plain": "woman|female|females|ladies|lady|womenswear|gals",
        "for": "a woman|her|ladies|females|a lady|my wife|my girlfriend|adult women|my mum"
        "|my mom|my sister|my mother|my aunt|my grandmother|my fiancee",
        "poss": "women's|women's|women's|womens|female|ladies|ladies'|women's|feminine",
    },
    "unisex": {
        "plain": "men and women|both men and women|gender neutral|any gender|all genders",
        "for": "everyone|anyone|men and women|both men and women|all genders|any gender"
        "|him and her|either gender|both sexes|anybody",
        "poss": "gender neutral|gender-neutral|genderless",
    },
    "boys": {
        "plain": "boy|little boys|kids boys|young boys|boyswear|boy kids",
        "for": "a boy|little boys|a little boy|kids boys|young boys|my son|my nephew|a young boy"
        "|small boys|boy children|my grandson|a schoolboy|my little brother|little lads",
        "poss": "boys'|boy's|boys'|little boys'|boy",
    },
    "girls": {
        "plain": "girl|little girls|kids girls|young girls|girlswear|girl kids",
        "for": "a girl|little girls|a little girl|kids girls|young girls|my daughter|my niece"
        "|a young girl|small girls|girl children",
        "poss": "girls'|girl's|girls'|little girls'|girl",
    },
}

_PATTERNS: dict[str, dict[str, str]] = {
    "plain": {
        "plain": "solid|unpatterned|patternless|solid coloured|one-coloured",
        "noun": "no pattern|no pattern at all|a solid design|a plain surface|a plain design",
    },
    "striped": {
        "plain": "stripy|stripey|stripe|pinstriped",
        "noun": "stripes|stripes|a striped pattern|a stripe pattern|lines|a striped design",
    },
    "dotted": {
        "plain": "polka dot|polka-dot|spotted|dotty|polka dotted",
        "noun": "dots|polka dots|a dotted pattern|spots|a polka dot pattern|a dotted design",
    },
    "checked": {
        "plain": "chequered|checkered|check|plaid|gingham",
        "noun": "checks|a checked pattern|a check pattern|squares|a checkered pattern"
        "|a checked design",
    },
}

_Forms = tuple[tuple[str, ...], tuple[float, ...]]  # forms and their cumulative shares


def add_article(phrase: str) -> str:
    """Return a phrase with "a" or "an": "a unisex", "an olive", "an ipad"."""
    sounds_like_consonant = phrase.startswith(("uni", "eu", "one"))
    return f"{'an' if phrase[0] in 'aeiou' and not sounds_like_consonant else 'a'} {phrase}"


def _split(forms: str) -> tuple[str, ...]:
    return tuple(form for form in forms.split("|") if form)


def _weigh(*groups: tuple[float, Sequence[str]]) -> _Forms:
    """Return forms and cumulative shares; the forms of a group have equal parts of its share."""
    present = [(share, forms) for share, forms in groups if forms]
    total = sum(share for share, _ in present)
    forms = tuple(form for _, group in present for form in group)
    shares = [share / total / len(group) for share, group in present for _ in group]
    return forms, tuple(float(edge) for edge in np.cumsum(shares))


def _type_forms(raw: str, slot: str) -> _Forms:
    if raw in _MASS:
        others = _split(_MASS[raw])
        bare = tuple(form.removeprefix("a ") for form in others)
        phrases = tuple(f"some {form}" for form in (raw, bare[0]))
        if slot == "plain":
            return _weigh((_RAW_SHARE, (raw,)), (1 - _RAW_SHARE, bare))
        return _weigh((_RAW_SHARE, (raw,)), (0.1, phrases), (0.2, others))
    if raw in _PAIRS:
        plurals, singulars = (_split(part) for part in _PAIRS[raw])
        pairs = tuple(f"a pair of {form}" for form in plurals)
        pair = f"a pair of {raw}"
        if slot == "plain":
            return _weigh((_RAW_SHARE, (raw,)), (0.2, plurals), (0.1, singulars))
        if slot == "a":
            return _weigh((0.7, (pair,)), (0.3, pairs))
        return _weigh((0.5, (raw,)), (0.25, (pair,)), (0.1, pairs), (0.15, plurals))
    if raw in _COUNTABLE:
        plurals, singulars = (_split(part) for part in _COUNTABLE[raw])
    else:  # a catalogue's own type: its name, and a singular or plural made by rule
        singulars = (_singular(raw),)
        plurals = (raw if singulars[0] != raw else _plural(raw),)
    named_singular = raw in singulars
    first, rest = add_article(singulars[0]), tuple(add_article(form) for form in singulars[1:])
    if slot == "plain":
        others = tuple(form for form in singulars if form != raw)
        if named_singular:  # "do you have dresses?" more often than "do you have dress?"
            return _weigh((0.55, (raw,)), (0.35, plurals), (0.1, others))
        return _weigh((_RAW_SHARE, (raw,)), (0.15, plurals), (0.15, others))
    if slot == "a":
        return _weigh((0.7, (first,)), (0.3, rest))
    if named_singular:
        return _weigh((0.5, (first,)), (0.2, (raw,)), (0.15, rest), (0.15, plurals))
    return _weigh((0.5, (raw,)), (0.25, (first,)), (0.1, rest), (0.15, plurals))


def _singular(name: str) -> str:
    if name.endswith("ies") and len(name) > 4:
        return f"{name[:-3]}y"
    if name.endswith(("sses", "ches", "shes", "xes")):
        return name[:-2]
    if name.endswith("s") and not name.endswith(("ss", "us", "is")):
        return name[:-1]
    return name


def _plural(name: str) -> str:
    if name.endswith(("s", "ch", "sh", "x")):
        return f"{name}es"
    if name.endswith("y") and name[-2:-1] not in "aeiou":
        return f"{name[:-1]}ies"
    return f"{name}s"


def _gender_forms(raw: str, slot: str) -> _Forms:
    spoken = _GENDERS.get(raw, {})
    if slot == "plain":
        return _weigh((_RAW_SHARE, (raw,)), (1 - _RAW_SHARE, _split(spoken.get("plain", ""))))
    if slot == "for":
        return _weigh((0.6, (raw,)), (0.4, _split(spoken.get("for", ""))))
    # attributive: "women version" is what a filter says, "women's version" what a person does
    possessives = _weigh((0.4, (raw,)), (0.6, _split(spoken.get("poss", ""))))
    return possessives if slot == "poss" else _with_articles(possessives)


def _pattern_forms(raw: str, slot: str) -> _Forms:
    spoken = _PATTERNS.get(raw, {})
    if slot == "noun":
        first = "a plain look" if raw == "plain" else f"a {raw} pattern"
        return _weigh((0.4, (first,)), (0.6, _split(spoken.get("noun", ""))))
    return _adjective_forms(raw, spoken.get("plain", ""), slot)


def _colour_forms(raw: str, slot: str) -> _Forms:
    return _adjective_forms(raw, _COLOURS.get(raw, ""), slot)


def _adjective_forms(raw: str, others: str, slot: str) -> _Forms:
    adjectives = _weigh((_RAW_SHARE, (raw,)), (1 - _RAW_SHARE, _split(others)))
    return _with_articles(adjectives) if slot == "a" else adjectives


def _with_articles(forms: _Forms) -> _Forms:
    return tuple(map(add_article, forms[0])), forms[1]


_FORMS_OF_KIND = {
    "colour": _colour_forms,
    "type": _type_forms,
    "gender": _gender_forms,
    "pattern": _pattern_forms,
}


@cache
def weighted_forms(kind: str, value: str, slot: str) -> _Forms:
    """Return the forms of a value in a slot, in lower case, and their cumulative shares.

    The only form of a value that no table has is the value itself.

    Raises:
        ValueError: the value is empty, or the kind does not have the slot.
    """
    raw = " ".join(value.lower().split())
    if not raw:
        raise ValueError(f"the {kind} is empty")
    if slot not in SLOTS[kind]:
        raise ValueError(f"a {kind} has no slot {slot!r}; it has {', '.join(SLOTS[kind])}")
    return _FORMS_OF_KIND[kind](raw, slot)


def verbalise(kind: str, value: str, slot: str, rng: np.random.Generator) -> str:
    """Draw one of the `weighted_forms` of a value in a slot."""
    forms, edges = weighted_forms(kind, value, slot)
    return forms[min(int(np.searchsorted(edges, rng.random(), side="right")), len(forms) - 1)]
