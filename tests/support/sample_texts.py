"""Texts that stress a tokenizer: whole Unicode, and fragments for each step of cleaning."""

from __future__ import annotations

from hypothesis import strategies as st

TEMPLATE = "a photo of $ that {text}"
SPECIAL_STRINGS = ["<start_of_text>", "<end_of_text>", "<|startoftext|>", "<|endoftext|>"]

FRAGMENTS = st.sampled_from(
    [
        *("red", "DRESS", "it's", "they'RE", "'\u017f", "don\u2019t", "I'll", "''s", "x'd", "'"),
        *("$", "{text}", "<b>", "&", "&amp;", "&amp;lt;3", "&eacute;", "&#x1F600;", "&#xD800;"),
        *("&nbsp;", "&notin", "sÃ£o", "â€œquotedâ€\x9d", "Ã ", "schÃ¶n", "ï»¿", "\ufeff"),
        *("👗", "👩🏽‍🎤", "🇩🇪", "❤️", "1️⃣", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "Å", "ﬁ", "ﬅ", "Ⅳ", "½", "٣", "Ⓐ", "ᾳ"),
        *("e\u0301", "\u0301", "a\u0345", "\u0345", "İstanbul", "ΟΔΟΣ", "ẞ", "straße"),
        *("红色的裙子", "ｱｲｳ", "\uff32\uff25\uff24", "ไทย", "हिन्दी", "한국어", "3,5", "2024", "_"),
        *(" ", "  ", "\t", "\n", "\r\n", "\x00", "\x07", "\x1b[31m", "\x1c", "\x85", "\u200b"),
        *("\u2028", "\u00a0", "\u00ad", "!!!", "...", "—", "#1", "<|", "\ufffd", "\U0010ffff"),
    ]
)
TEXTS = st.one_of(
    st.text(max_size=60),
    st.lists(st.one_of(FRAGMENTS, st.text(max_size=3)), max_size=12).map("".join),
    st.lists(st.one_of(FRAGMENTS, st.text(max_size=8)), max_size=12).map(" ".join),
)
