"""Wordings by rule: *frames* (ways of asking) times phrases for what is wanted, and other talk.

Families written by hand teach the words for a change; this module teaches that the words around
it may be anything. A model that has met few other words takes each new one for a part of the
modification. So frames, talk and fillers are many, have a large vocabulary, and never name a value.
None has a phrase of a held-out family, or the words that are typical of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

# fmt: off
# kind -> phrases for the wanted item, which replace ``{np}`` in a frame
WANTED_PHRASES: Mapping[str, tuple[str, ...]] = MappingProxyType({
    "colour": (
        "{it} in {new}", "{new_a} one", "the {new} one", "{new_a} version of this",
        "the same {item} in {new}", "something {new}", "{new_a} {item}", "this, but in {new}",
        "one that is {new}", "{new}", "the {new} version", "a similar {item} in {new}",
        "one in {new}", "{new_a} one, not {old_a} one", "{new} rather than {old}",
    ),
    "type": (
        "{new_np}", "{new}", "{new} in this colour", "{new} like this",
        "{new_np} in the same colour", "some {new}", "similar {new}", "{new_a}", "{new} instead",
        "{kept_colour} {new}", "{new_np}, not {old_np}", "{new} rather than {old}",
        "{new_np} of this colour", "{new} for {kept_gender_for}",
    ),
    "gender": (
        "{it} for {new_for}", "one for {new_for}", "{new_possa} one", "the {new_poss} version",
        "something for {new_for}", "the same {item} for {new_for}", "{new_possa} {item}",
        "the {new_poss} one", "this, but for {new_for}", "{kept_type} for {new_for}",
        "{new_poss} {kept_type}", "one for {new_for}, not for {old_for}",
        "a similar {item} for {new_for}", "something that fits {new_for}",
        "what {new_for} would wear", "it in the size of {new_for}", "this as worn by {new_for}",
        "something with {new_for} in mind",
        "it as seen on {new_for}", "the {new_poss} {item}",
    ),
    "pattern": (
        "{new_a} one", "the {new} one", "{it} with {new_noun}", "one with {new_noun}",
        "the {new} version", "something {new}", "{new_a} {item}", "the same {item} with {new_noun}",
        "something with {new_noun}", "{new_a} one, not {old_a} one", "{new} rather than {old}",
    ),
})

# family -> mood and frames, for every kind of change
FRAMES: Mapping[str, tuple[str, tuple[str, ...]]] = MappingProxyType({
    "frame_desire": ("wish", (
        "(i am|i'm) (interested in|keen on|all for|leaning towards|set on|open to) {np}",
        "i could (use|do with|go for) {np}",
        "(i will|i'll|i'd) (take|have|go for|choose|pick|order|settle for|opt for) {np}",
        "i (am|was|have been) (hunting|hoping|asking|waiting|looking around) for {np}",
        "(in need of|in the market for|hungry for|craving|desperate for|longing for) {np}",
        "i (really|badly|urgently|absolutely|only|still) (need|want) {np}",
        "we (want|need|are after|would take|were hoping for) {np}",
        "my (choice|vote|pick|preference|request|order) is {np}",
        "i (have|had) {np} in mind",
        "(somebody|a friend|the customer|my boss) (wants|needs|asked for|asks for|ordered) {np}",
        "i was (told|asked) to (get|find|bring) {np}",
        "it would be (good|helpful|useful|wonderful) to have {np}",
        "i meant {np}",
        "i (love|adore|enjoy|admire) {np}",
        "i would (be glad of|be grateful for|be delighted with|appreciate|welcome) {np}",
        "i expected {np}",
        "i insist on {np}",
    )),
    "frame_search": ("wish", (
        "i (cannot|can't|could not|couldn't) (find|see|spot|get) {np}",
        "i (searched|looked|asked|browsed) everywhere for {np}",
        "there (must|should|has to) be {np} somewhere",
        "i have not (seen|found) {np} yet",
        "nobody (here|in town|around here) (sells|has|makes) {np}",
        "(where is|where are|what happened to) {np}",
        "my search for {np} goes on",
        "i (know|am sure|believe|remember) you (have|had|sell) {np}",
    )),
    "frame_command": ("imperative", (
        "(point|direct|guide|steer|take|lead) me to {np}",
        "(bring|fetch|hand|send|pass|grab|buy|order|find|get) me {np}",
        "(order|reserve|book|unpack|prepare|set aside|ship|deliver) {np}",
        "(add|put|move) {np} (in|into) (my|the) (basket|cart)",
        "(recommend|suggest|propose|offer|present me|list|load|open|pull up|retrieve) {np}",
        "(look for|look up|hunt down|track down|dig up|browse for|google) {np}",
        "(narrow it down|limit the results|restrict this|filter down|jump|skip|scroll) to {np}",
        "help me (find|locate|choose|spot|order) {np}",
        "see (if|whether) (you have|there is|you can find|somebody sells) {np}",
        "(tell|let) me know where (i find|they keep|you keep) {np}",
        "try {np}",
        "(change|swap|exchange|convert|transform|replace) this (to|for|into|with) {np}",
        "use a photo of {np}",
        "focus on {np}",
        "start from this and end up with {np}",
        "stick to this, but get {np}",
    )),
    "frame_question": ("question", (
        "would you (have|happen to have|recommend|sell me) {np}?",
        "(any chance of|any luck with|any news on|anything like) {np}?",
        "(is|was) it possible to (order|have|see|find) {np}?",
        "(do|did) you (carry|offer|keep|ship|produce|know|also sell) {np}?",
        "(where|when|how) (can|could|would|do) i (get|order|find|buy|see) {np}?",
        "(who|which shop|which page) (sells|makes|has|offers) {np}?",
        "how (much is|expensive is|about|soon can you get) {np}?",
        "why not {np}?",
        "(could|can|may|should) i (try|see|have|order|reserve|choose) {np}?",
        "(can|could|will) you (send|show|bring|order|recommend) me {np}?",
        "would {np} be (possible|an option|available|hard to find|more expensive)?",
        "{np}, is that (possible|available|something you have|hard to find)?",
        "{np}, (or not|do you know|can you help|where)?",
        "did they ever (make|sell|release) {np}?",
        "what do you call {np}?",
    )),
    "frame_front": ("phrase", (
        "{np}, that (is|was) what i (want|need|meant|had in mind|asked for)",
        "{np}, (thank you|cheers|that's all|you know|right|no|ok|of course|as i said|as before)",
        "{np} (would|will|might|could) (do|work|help|be ideal|be enough|be right|be good)",
        "{np} (or nothing|for sure|definitely|it is then|above all|again|today|most of all)",
        "(ideally|preferably|rather|maybe|perhaps|definitely|surely|specifically|namely) {np}",
        "(yes to|ok with|fine with|on to|then|now|next up) {np}",
        "(the goal is|the plan is|the task is|the idea is|what matters is|what counts is) {np}",
        "(answer|result|wanted|required|request|requirement|expected|goal|query): {np}",
        "(almost|nearly|close|not quite), but (rather|better|i mean|i need|it must be) {np}",
        "(something in the vein of|something close to|a kind of|a sort of) {np}",
    )),
    "frame_modal": ("wish", (
        "it (could|might|may|would|can|used to) be {np}",
        "i (had|would have|could have) (expected|taken|chosen|ordered|hoped for) {np}",
        "i (was hoping|hoped|assumed|trusted|believed|heard) it would be {np}",
        "had i known, i would have asked for {np}",
        "it (ought to|had better|is bound to|is meant to|was supposed to) be {np}",
        "(seeing|finding|getting|owning|trying) {np} would (help|be nice|be fun|make sense)",
        "(sooner or later|one day|in the end|at last) i will (need|get|buy|own) {np}",
        "as far as i (know|remember|can tell) {np} (sells|sell|looks|look|lasts|last) well",
        "(people|they|reviews|friends) say {np} would be (right|better value|easier|worth it)",
        "(with|thanks to|for want of) {np} i could (go out|stop searching|leave|start) at last",
        "the day i find {np} will be a good day",
        "it (occurred|seems|appears) to me that {np} would fit here",
        "nothing would (please|help) me more than {np}",
    )),
    "frame_negative": ("wish", (
        "nothing (but|except|other than|short of) {np}",
        "i (will not|won't|do not|don't|would never) (buy|take|accept|order) anything but {np}",
        "i (will not|won't|do not|don't|would never) (need|want|choose) anything except {np}",
        "(anything|everything) (but|except|besides) {np} (is wrong|can go|is of no use to me)",
        "i can't (do|live|go) without {np}",
        "(no other|not any other|nothing else), only {np}",
        "don't (show|bring|offer|send) me (anything|things) (other than|besides|except) {np}",
        "(not this|not quite|wrong one|no, not that): {np}",
        "i (never|hardly ever) (wanted|needed|asked for) (anything|something) else than {np}",
        "why (don't|can't|won't|wouldn't) (you|they|we) (have|sell|show|offer) {np}",
        "this (won't do|does not work|is no good|is not it), {np} (will|does|is|would)",
        "i (doubt|deny|disagree) that this is right, {np} is what was (meant|ordered|asked for)",
    )),
    "frame_caption": ("caption", (
        "(is now|turned out to be|became|turns into|is really|is actually|is clearly) {np}",
        "(shows|depicts|presents|displays|represents|offers|contains|resembles) {np}",
        "(was replaced by|was swapped for|was exchanged for|has changed into) {np}",
        "(people would call|a shop would sell as|somebody described as|looks like) {np}",
        "(could be|must be|should be|will be|has to be|might be|ought to be) {np}",
    )),
})

# for changes of gender: who will wear it, without "for"
WEARERS: tuple[str, ...] = (
    "{new_for} (needs|need|wants|want|will wear|would wear|asked for|ordered) {it}",
    "{it} goes to {new_for}",
    "send {it} (on|over) to {new_for}",
    "something (that|which) {new_for} (can|could|would|will|may) (wear|use|like|put on)",
    "{it} should (fit|suit|please|match|belong to) {new_for}",
    "(it|this) is about {new_for}(|, not about {old_for}|, not {old_for})",
    "(sized|cut|made|sewn) to fit {new_for}",
    "(modelled|worn|carried|used|owned) by {new_for}(|, not by {old_for}|, not {old_for})",
    "with {new_for} in mind(|, not {old_for})",
    "among things of {new_for}",
    "the one who wears it: {new_for}",
    "(who is it for|for whom|wearer|recipient|buyer|customer|user)(?|:) {new_for}",
    "ask {new_for} what they would take",
    "{new_for} (and not {old_for}|rather than {old_for}|instead of {old_for}) will wear it",
    "i (shop|am here|came|have to shop) with {new_for}",
    "(for|on|by|with|to) {new_for}",
)

# kind -> clauses about the reference, to put before or after any sentence
REFERENCE_CLAUSES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType({
    "colour": ((
        "this is {old}, ", "this one is {old} but ", "not {old}, ", "no {old}, ",
        "instead of {old} ",
        "instead of the {old} one, ", "rather than {old}, ", "{old} is wrong, ", "not in {old}, ",
        "i see {old}, but ", "here it is {old}; ", "we have {old} already, ", "without the {old}, ",
        "the photo shows {old}, so ", "unlike this {old} one, ",
        "i have seen the {old} one, now ", "the {old} is too much, ", "it is {old} here, ",
        "i was shown {old}; ", "less {old}, ", "do away with {old}, ", "{old} no, ",
    ), (
        " instead of {old}", " rather than {old}", ", not {old}", " in place of {old}",
        ", no {old}", " and not {old}", ", unlike this {old} one", ", this one is {old}",
        ", the {old} one is not for me", " because {old} does not work", ", without {old}",
        " instead of the {old} one", ", never {old}", ", anything but {old}",
        " as opposed to {old}",
        ", {old} no", " since this is {old}", ", {old} is not what i need", " and no {old}",
    )),
    "type": ((
        "these are {old}, ", "this is {old_np} but ", "not {old}, ", "no {old}, ",
        "instead of {old} ", "instead of the {old}, ", "rather than {old}, ", "{old} are wrong, ",
        "i see {old}, but ", "here we have {old}; ", "without the {old}, ", "unlike these {old}, ",
        "i have seen the {old}, now ", "i was shown {old}; ", "no need for {old}, ", "{old} no, ",
    ), (
        " instead of {old}", " rather than {old}", ", not {old}", " in place of {old}",
        ", no {old}", " and not {old}", ", unlike these {old}", ", these are {old}",
        " because {old} do not work", ", without {old}", ", never {old}", ", anything but {old}",
        " as opposed to {old}", ", {old} no", ", {old} are not what i need", " and no {old}",
    )),
    "gender": ((
        "this is for {old_for}, ", "these are {old_poss} but ", "not {old_poss}, ",
        "not for {old_for}, ", "instead of {old_for} ", "rather than {old}, ",
        "this one is {old_poss}, ", "i see {old_poss} ones, but ", "here it is for {old_for}; ",
        "unlike this {old_poss} one, ", "i was shown {old_poss} things; ", "{old} no, ",
        "made for {old_for} so far, ",
    ), (
        " instead of {old_for}", " rather than {old_for}", ", not for {old_for}", ", not {old}",
        ", unlike this {old_poss} one", ", this one is for {old_for}", ", no {old}",
        ", the {old_poss} one does not work", " as opposed to {old}", ", {old} no",
        " since this is {old_poss}", " and not for {old_for}", " instead of {old_possa} one",
    )),
    "pattern": ((
        "this is {old}, ", "this one is {old} but ", "not {old}, ", "instead of {old} ",
        "no {old}, ", "rather than {old}, ", "here it has {old_noun}; ", "i see {old_noun}, but ",
        "unlike this {old} one, ", "{old} no, ", "it has {old_noun} so far, ",
    ), (
        " instead of {old}", " rather than {old}", ", not {old}", " instead of {old_noun}",
        ", unlike this {old} one", ", this one has {old_noun}", " in place of {old_noun}",
        " as opposed to {old}", ", {old} no", " and not {old}", ", never {old}",
    )),
})

# unrelated talk; `STRAY_WORDS` has its words too
TALK_BEFORE: tuple[str, ...] = (
    "i saw this on your website yesterday, ", "a friend sent me the picture, ",
    "my neighbour has one of these and ", "we are going on holiday soon, ",
    "after reading many reviews ", "as i told your colleague on the phone, ",
    "i hope you can help me, ", "quick one: ", "to be honest ", "let me explain: ",
    "long story short, ", "i know it is late but ", "first of all, ", "just so you know, ",
    "following up on my email, ", "i have been shopping all day and ",
    "sorry to bother you again, ",
    "the weather is getting colder so ", "summer is here and ", "for the office party ",
    "since the sale ends on friday ", "my budget is small, ", "money does not matter, ",
    "i already ordered from you last week, ", "it arrived today and ", "the quality is great, ",
    "the material feels comfortable, ", "the size fits well, ", "the price is fine, ",
    "delivery was fast, ", "nothing against this one, ", "good find, ", "really close, ",
    "that is nearly it, ", "we are almost there, ", "great, ", "cool, ", "hm, ", "yeah, ",
    "right, ", "so, ", "now then, ", "listen, ", "look, ", "you know what, ", "guess what, ",
    "to whom it may concern, ", "dear team, ", "good evening, ", "greetings, ",
    "for a wedding in june, ", "for the gym, ", "for school, ", "for work, ", "for every day, ",
    "for a photo shoot ", "for my collection ", "for a costume ", "for a job interview, ",
    "the store downtown was closed, ", "i am new here, ", "my phone is slow, ",
    "using voice search: ",
    "translate this: ", "assistant, ", "computer, ", "hey google, ", "question for the experts: ",
    "step two: ", "next search: ", "second attempt: ", "correction: ", "edit: ", "update: ",
    "note: ",
    "reminder to myself: ", "from the catalogue, ", "on page seven, ", "with free shipping, ",
    "under twenty dollars, ", "below fifty euros ", "if the stock allows, ",
    "when you have a minute, ",
    "before the weekend, ", "as soon as possible, ", "by tomorrow, ", "this time around ",
    "like in the magazine, ", "as seen on television, ", "inspired by this photo, ",
    "based on this image, ", "starting from this picture, ", "taking this as an example, ",
    "with this as a starting point, ", "given this photo, ", "comparing the two, ",
    "after some discussion ", "my teacher said that ", "according to the invitation ",
    "the rules have been changed, so ", "most people have got this already, so ",
    "i returned the last one because of the size, ", "it has to arrive before monday, ",
)
TALK_AFTER: tuple[str, ...] = (
    ", that would be great", ", i will pay by card", ", do you deliver abroad", ", cheers",
    ", many thanks in advance", ", best regards", ", it is urgent", ", no hurry",
    ", take your time",
    ", whatever the price", ", if it is not too expensive", ", under thirty pounds", ", on sale",
    ", in stock today", ", with fast delivery", ", in my size", ", medium size", ", in large",
    ", of good quality", ", comfortable and cheap", ", not too expensive",
    ", as i said before", ", as we discussed", ", like last year", ", like my neighbour's",
    ", for the office", ", for a party", ", for summer", ", for the cold season", ", for every day",
    ", for a wedding", ", for sport", ", for next week", ", before the weekend", ", by friday",
    ", that's it", ", that's all i need", ", nothing else", ", ok?",
    ", you know what i mean", ", am i right", ", or is that impossible", ", hope that makes sense",
    ", sorry for the trouble", ", i really love the rest", ", the rest is fine", ", great shop",
    ", and tell me the price", ", and how much is it", ", and reserve it", ", two of them",
    ", one will be enough", ", thank you so much", ", let me know", ", i am waiting", ", lol",
    ", haha",
    "...", "!!", " asap", " tonight", " today", " if at all possible",
    " when you can", " somehow", " i guess", " or so", " or something", " ok", " right now",
    " again", " and quickly", " at a good price", " with free returns",
)

# fillers of spoken language, to put before any word
FILLERS: tuple[str, ...] = (
    "like", "um", "uh", "er", "maybe", "really", "actually", "basically", "kind of", "sort of",
    "perhaps", "well", "you know", "i mean", "just", "so", "rather", "also", "again", "please",
)

# neutral words, which say nothing about an item
_NEUTRAL = (
    "about above across after afternoon against ago airport album almost along although always "
    "among answer apartment april arrive article august autumn away back bank because become "
    "begin behind believe below beside between beyond bicycle breakfast bridge broken build bus "
    "busy call careful carry cheap choice city clean clever clock club coach company concert "
    "cook corner count country couple course cousin credit daily dance decide deliver desk "
    "dinner doctor door doubt down during early easy eight either email empty enter equal "
    "evening event ever exact example except expect famous far farm fast february feel few "
    "fifth film final finish five floor follow forever form forward four free fresh friend "
    "front full funny further future game gentle given glad grand group guest guide happen hard "
    "health help here hidden high history holiday honest hotel hour house huge hundred idea "
    "important indeed inside invite island january join journey july june keep kitchen know "
    "lake language large late later learn letter library life local london long luck lunch "
    "machine magazine main march market matter meet member message middle minute modern moment "
    "monday money month moon morning mountain movie museum music near never newspaper night "
    "nine noon normal north nothing november number october offer often old once online open "
    "order other outside over owner page paper park part party past people phone piece place "
    "plan play point police poor popular possible post power price problem project proud public "
    "quarter quick quiet rain reach ready real reason recent record report rest restaurant "
    "return rich river road room round safe saturday school season second sell send september "
    "serious seven several short side simple since single six sleep slow smart soft someone "
    "song soon sport spring station stay step still stop store story street strong student "
    "sudden sunday sure system table talk tall teacher team ten theatre then third thousand "
    "three through thursday today together tomorrow tonight town traffic train travel tree true "
    "tuesday twelve twice under until useful usual vacation very village visit voice wait wall "
    "warm water weather wednesday week weekend welcome west whatever wide wind window winter "
    "wonder word work world worth year yesterday "
)
STRAY_WORDS: tuple[str, ...] = tuple(_NEUTRAL.split())
# fmt: on
