"""The error for an unknown name: what was perhaps meant, and what there is."""

from btm.errors import unknown


def test_all_of_a_few_names_are_listed():
    assert str(unknown("ELM", "bibel", ["law", "bible"], "here")) == (
        "no ELM 'bibel' in here (did you mean 'bible'?); have: bible, law"
    )
    assert str(unknown("ELM", "law", [])) == "no ELM 'law'; have: none"


def test_of_many_names_the_nearest_ten_are_listed_in_their_order():
    names = [f"domain_{number:02}" for number in range(40)] + ["bible"]
    message = str(unknown("domain", "domain_3", names))
    listed = message.partition("have: ")[2].removesuffix(" and 31 more").split(", ")
    assert len(listed) == 10
    assert listed == sorted(listed)
    assert set(listed) <= set(names) - {"bible"}
    assert message.endswith(" and 31 more")
    assert "(did you mean 'domain_3" in message


def test_a_name_unlike_all_still_gets_ten():
    message = str(unknown("key", "xyz", [str(number) for number in range(100, 115)]))
    assert message.endswith(" and 5 more")
