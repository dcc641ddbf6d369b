"""Licences: the words people use, what a policy allows, what contradicts what."""

import pytest

from infra.errors import UserError
from rendering.licences import LicencePolicy, contradict, family, licence_name, named_in_file


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("CC-BY-NC-SA-4.0 (http://creativecommons.org/licenses/by-nc-sa/4.0/)", "CC-BY-NC-SA-4.0"),
        ("CC Attribution-NonCommercial-ShareAlike", "CC-BY-NC-SA"),
        ("Creative Commons Attribution-NonCommercial 4.0 International", "CC-BY-NC-4.0"),
        ("Creative Commons Attribution 3.0", "CC-BY-3.0"),
        ("CC BY 4.0, for non commercial use", "CC-BY-NC-4.0"),
        ("cc_by_nd_4.0", "CC-BY-ND-4.0"),
        ("CC-BY-NoDerivatives", "CC-BY-ND"),
        ("https://creativecommons.org/licenses/by-nc-nd/3.0/", "CC-BY-NC-ND-3.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0-1.0"),
        ("MIT License", "MIT"),
        ("all rights reserved", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_restriction_is_never_overlooked(text, name):
    assert licence_name(text) == name


@pytest.mark.parametrize(
    ("licence", "reason"),
    [
        ("CC0-1.0", ""),
        ("CC-BY-4.0", ""),
        ("CC-BY-SA-3.0", ""),
        ("MIT", ""),
        ("Apache-2.0", ""),
        ("CC-BY-NC-4.0", "licence_non_commercial"),
        ("CC-BY-NC-ND-4.0", "licence_non_commercial"),
        ("CC-BY-ND-4.0", "licence_no_derivatives"),
        ("unknown", "licence_unknown"),
        ("", "licence_unknown"),
        ("Sketchfab Standard", "licence_not_allowed"),
    ],
)
def test_the_default_policy(licence, reason):
    assert LicencePolicy.of(()).refusal(licence) == reason
    assert LicencePolicy.of((), vouched=True).refusal(licence) == ("" if reason == "licence_unknown" else reason)
    assert LicencePolicy.of(("any",)).refusal(licence) == ""


def test_an_explicit_list_replaces_the_default():
    policy = LicencePolicy.of(("cc-by-nc-4.0", " CC0 ", "unknown"))
    assert [policy.refusal(licence) for licence in ("CC-BY-NC-4.0", "CC0-1.0", "unknown")] == ["", "", ""]
    assert policy.refusal("CC-BY-NC-3.0") and policy.refusal("CC-BY-4.0") and policy.refusal("CC-BY-NC")
    assert LicencePolicy.of(("cc0",), vouched=True).refusal("unknown") == "licence_unknown"


def test_a_misspelt_licence_is_refused_with_the_nearest():
    with pytest.raises(UserError) as caught:
        LicencePolicy.of(("cc-by", "cc-by-sb"))
    assert "did you mean 'CC-BY-SA'" in caught.value.mend


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("CC-BY-4.0", "CC-BY-NC-4.0", True),
        ("CC-BY-4.0", "CC-BY-3.0", True),
        ("CC-BY-4.0", "CC-BY", False),
        ("CC-BY-4.0", "unknown", False),
        ("unknown", "CC-BY-NC-4.0", False),
        ("CC0-1.0", "CC0-1.0", False),
        ("MIT", "Apache-2.0", True),
    ],
)
def test_contradictions(one, other, expected):
    assert contradict(one, other) is contradict(other, one) is expected


def test_families_have_no_version():
    assert [family(name) for name in ("CC-BY-NC-SA-4.0", "CC0-1.0", "MIT", "Apache-2.0")] == ["cc-by-nc-sa", "cc0", "mit", "apache"]


def test_what_a_file_names():
    document = {"asset": {"extras": {"title": "Cup", "author": "Ann", "source": "https://example.org/cup"}}}
    assert named_in_file(document) == {"title": "Cup", "author": "Ann", "source_page": "https://example.org/cup"}
    assert named_in_file({"asset": {"extras": "text"}}) == {"title": "", "author": "", "source_page": ""}
