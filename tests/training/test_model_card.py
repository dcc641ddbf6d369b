"""The card's text: what licences ask, how sections are replaced, that figures always fit."""

from dataclasses import replace

from training.model_card import FIGURES, CardFacts, hub_page, licence_note, model_card, shown_licences, with_section

FACTS = CardFacts("mvforge", "mvdiffusionpp", "tiny", 15, {"CC0-1.0": 12, "CC-BY-NC-SA-4.0": 3}, "abc", "c0ffee", {"mvae": "0.03"})


def test_licences_are_counted_by_what_they_ask():
    note = licence_note({"CC-BY-NC-SA-4.0": 3, "CC-BY-ND-3.0": 2, "CC-BY-4.0": 5, "CC0-1.0": 1, "unknown": 4})
    for line in ("10 ask for attribution", "3 forbid commercial", "2 forbid changed", "3 ask for the same", "4 state no known"):
        assert f"- {line}" in note
    assert licence_note({"CC0-1.0": 3}).startswith("All objects may be used for any purpose.")
    many = {f"L{n:02d}": 20 - n for n in range(20)}
    assert shown_licences(many).endswith("8 others 36") and shown_licences({}) == "none"


def test_a_section_is_replaced_and_nothing_else():
    card = model_card(FACTS)
    once = with_section(card, FIGURES, "| psnr | 20 |")
    assert "Not evaluated" not in once and "| psnr | 20 |" in once
    assert with_section(once, FIGURES, "Not evaluated yet.") == card, "there and back"
    assert once.replace("| psnr | 20 |", "Not evaluated yet.") == card
    last = with_section(card, "How it was made", r"by \1 hand")
    assert last.endswith("## How it was made\n\nby \\1 hand\n") and last.startswith(card[:200])
    assert with_section("A person wrote this.", "Champion", "v2") == "A person wrote this.\n\n## Champion\n\nv2\n"
    assert with_section("", "Champion", "v2") == "## Champion\n\nv2\n"


def test_the_card_leaves_room_for_figures():
    long = replace(FACTS, licences={f"CC-BY-{n}.0": n + 1 for n in range(30)}, losses={f"stage{n}": "0.123456" for n in range(8)})
    assert len(model_card(long)) < 3000
    assert hub_page(FACTS).splitlines()[:2] == ["---", "library_name: diffusers"] and "# mvforge" in hub_page(FACTS)
