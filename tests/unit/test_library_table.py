"""The tables of profiles/README.md: made of the stories, complete, and with a witness in every cell."""

from collections import Counter

import pytest

from tests import library_table as table


@pytest.fixture(scope="module")
def library() -> table.Library:
    return table.read_library()


def test_the_readme_says_what_the_stories_say(library):
    assert table.table_in(table.README.read_text()) == table.render(library), (
        "run 'python -m tests.library_table --write' and review the difference"
    )


def test_every_profile_has_a_page_that_says_what_it_allows_stops_and_misses():
    for name in table.PROFILES:
        page = (table.FOLDER / f"{name}.md").read_text()
        for title in ("## Allows", "## Stops", "## Misses"):
            assert title in page, f"{name}.md has no '{title}'"
    assert set(table.PROFILES) == {path.stem for path in table.FOLDER.glob("*.toml")}


def test_every_family_is_caught_by_more_than_names(library):
    for family, names in library.families().items():
        means = Counter(
            how for name in names for profile in table.PROFILES
            if (name, profile) in library.cells
            for how in library.cells[name, profile].means
        )  # fmt: skip
        nameless = means["before"] + means["behaviour"] + means["content"]
        assert nameless or family in ("persistence",), f"{family}: nothing but names catches it"


def test_there_are_attacks_and_look_alikes_enough(library):
    assert len(library.attacks) >= 70
    assert len(library.innocent) >= 45
    attacked = {name.split("-")[0] for name in library.attacks}
    assert {name.split("-")[0] for name in library.innocent} == attacked, (
        "a family has no innocent look-alike"
    )


def test_every_link_of_the_readme_leads_somewhere():
    text = table.README.read_text()
    targets = {piece.partition(")")[0] for piece in text.split("](")[1:]}
    assert targets
    assert not [target for target in targets if not (table.FOLDER / target).exists()]
