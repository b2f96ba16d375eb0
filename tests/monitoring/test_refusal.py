from tidegate.monitoring.refusal import finding_of, refused

NOW = 100_000


def hours(per_minute, *, refusals=None, before=None):
    """An hour with refusals by cause, and a day with others before it; both with answers every minute."""
    span = range(NOW - 59 - 24 * 60, NOW + 1)
    causes = {}
    for minute in span:
        for what, count in (refusals if minute > NOW - 60 else before or {}).items():
            causes[minute, what] = count
    return causes, dict.fromkeys(span, per_minute), NOW


def test_a_field_that_is_wrong_all_of_a_sudden_is_named_with_its_share():
    (found,) = refused(*hours(90, refusals={"contract_violation(amount)": 10}))
    finding = finding_of(found)

    assert (found.code, found.field, found.n_refused) == ("contract_violation", "amount", 600)
    assert finding.title.startswith("10.0% of the last hour's requests were refused because of 'amount'")
    assert finding.subjects == ("contract_violation amount",)
    assert "callers of 'amount'" in finding.remedy


def test_callers_that_are_always_wrong_few_refusals_and_load_are_none():
    always = {"contract_violation(amount)": 10}
    assert refused(*hours(90, refusals=always, before=always)) == []
    assert refused({(NOW, "malformed_body"): 19}, {NOW: 10}, NOW) == []
    assert refused(*hours(90, refusals={"overloaded": 50, "deadline_exceeded": 50})) == []
    assert refused(*hours(9000, refusals={"malformed_body": 10})) == []


def test_a_service_that_is_asked_nothing_but_wrong_requests_is_seen():
    (found,) = refused({(NOW, "feature_stale"): 30}, {}, NOW)

    assert found.share == 1.0
    assert "too old" in finding_of(found).remedy
