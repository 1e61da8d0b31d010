"""The review station in a browser, used as a person would."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from starlette.responses import Response

from tests.service.review_page.conftest import begin, press, stored_drafts
from tests.service.review_page.fake_review import FakeReview, problem

pytestmark = pytest.mark.slow

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}


@pytest.mark.parametrize("tasks", [12, pytest.param(50, marks=pytest.mark.exhaustive)])
def test_many_tasks_with_the_keyboard_only(open_page, serve, wait_until, tasks):
    review = serve(FakeReview(tasks=tasks))
    page = begin(open_page(f"{review.url}/review/station"))
    for task in range(tasks):
        begin(page)
        # In every second task, the first Enter finds that picture 4 has no verdict, and chooses it.
        press(page, "a q q r 3 a Enter e Enter" if task % 2 else "a w 3 a 4 e b 3 b Enter")
    page.get_by_text("No task is waiting for you").wait_for()
    wait_until(lambda: len(review.reviews) == tasks)
    verdicts = [one["verdicts"] for one in review.reviews.values()]
    assert [one["usable"] for one in verdicts[0]] == [True, False, True, False]
    assert verdicts[0][1]["dimensions"] == {"physical_shadow": 1}
    assert verdicts[1][1]["dimensions"] == {"appearance_deformation": 2, "extension_rationality": 1}
    assert next(iter(review.reviews.values()))["best"] == 3
    assert [one["lease"] for one in review.reviews.values()] == [f"lse_{n}" for n in range(1, tasks + 1)]


def test_tasks_by_touch_on_a_phone(open_page, serve, wait_until):
    review = serve(FakeReview(tasks=4))
    page = open_page(f"{review.url}/review/station", **PHONE)
    for _ in range(4):
        begin(page)
        page.get_by_role("button", name="Usable", exact=True).tap()
        page.get_by_role("button", name="appearance deformation, severity 3", exact=False).tap()
        page.get_by_role("button", name="Picture 3", exact=False).tap()
        page.get_by_role("button", name="Usable", exact=True).tap()
        page.get_by_role("button", name="physical shadow, severity 1", exact=False).tap()
        page.get_by_role("button", name="Submit").tap()
    page.get_by_text("No task is waiting for you").wait_for()
    wait_until(lambda: len(review.reviews) == 4)
    for one in review.reviews.values():
        assert [verdict["usable"] for verdict in one["verdicts"]] == [True, False, True, False]
        assert one["verdicts"][1]["dimensions"] == {"appearance_deformation": 3}


def test_the_pictures_of_tasks_and_reviews_are_found_below_a_path_prefix(open_page, serve, wait_until):
    review = serve(FakeReview(prefix="/below"))
    page = begin(open_page(f"{review.url}/review/station"))
    press(page, "a a a a Enter")
    wait_until(lambda: review.reviews)
    page.reload()
    begin(page)
    page.goto(f"{review.url}/review")
    page.get_by_role("link", name="Open the review of").click()
    page.get_by_text("You are changing a review that you have sent.").wait_for()
    begin(page)


def test_two_enters_make_one_review(station, review, wait_until):
    station.locator("#station[data-ahead='2']").wait_for()
    now = datetime.now(UTC)
    station.clock.set_fixed_time(now)
    press(station, "a a a a Enter Enter")
    begin(station)
    wait_until(lambda: review.reviews)
    assert station.get_by_text("has no verdict").count() == 0
    station.clock.set_fixed_time(now + timedelta(seconds=1))
    press(station, "Enter")
    station.get_by_text("Picture 1 has no verdict yet.").wait_for()
    assert len(review.reviews) == 1


def test_an_incomplete_task_is_not_submitted_and_the_gap_is_named(station, review):
    press(station, "a a 4 a")
    station.wait_for_timeout(400)
    press(station, "Enter")
    station.get_by_text("Picture 3 has no verdict yet.").wait_for()
    press(station, "x Enter")
    station.get_by_text("Picture 3 is not usable: choose what is wrong, or write a comment.").wait_for()
    assert review.reviews == {}


def test_the_models_answer_is_shown_after_the_verdict_and_a_change_is_a_second_review(station, review, wait_until):
    assert station.get_by_text("the model").count() == 0
    press(station, "a a a a Enter")
    station.get_by_text("Last task: the model differs").wait_for()
    press(station, "v")
    station.get_by_text("The label of the second picture is mirrored.").wait_for()
    press(station, "e 1 q 2 w 4 e Enter")
    wait_until(lambda: len(review.reviews) == 2)
    first, second = review.reviews.values()
    assert second["supersedes"] == first["id"]
    assert [verdict["usable"] for verdict in second["verdicts"]] == [False, False, True, False]


def test_undo_and_redo_go_through_the_draft_and_then_to_the_last_review(station, review, wait_until):
    press(station, "a q q z")
    assert stored_drafts(station)[0]["verdicts"][1]["dimensions"] == {"appearance_deformation": 1}
    press(station, "z z")
    assert stored_drafts(station)[0]["verdicts"][0]["usable"] is None
    press(station, "Shift+Z Shift+Z Shift+Z")
    assert stored_drafts(station)[0]["verdicts"][1]["dimensions"] == {"appearance_deformation": 2}
    press(station, "3 a 4 a Enter")
    wait_until(lambda: review.reviews)
    begin(station)
    press(station, "z")
    station.get_by_text("You are changing a review that you have sent.").wait_for()
    assert station.get_by_text("✕ appearance deformation 2").first.is_visible()


def test_a_reload_brings_the_draft_back(station, review):
    press(station, "a q c")
    station.keyboard.type("the cap is missing")
    station.reload()
    begin(station)
    press(station, "2")
    assert station.get_by_label("Comment on picture 2").input_value() == "the cap is missing"
    assert station.get_by_text("✓ Usable").first.is_visible()
    assert review.leased == 3


def test_a_crash_brings_the_draft_back(station):
    from playwright.sync_api import Error

    press(station, "a q q")
    drafts = stored_drafts(station)
    context = station.context
    with station.expect_event("crash"), suppress(Error):
        station.goto("chrome://crash")
    page = context.new_page()
    page.goto(station.url)
    begin(page)
    assert stored_drafts(page) == drafts


def test_a_review_finished_offline_is_sent_when_the_connection_is_back(station, review, wait_until):
    station.locator("#station[data-ahead='2']").wait_for()
    station.context.set_offline(True)
    press(station, "a a a a Enter")
    station.get_by_text("1 review waits to be sent").wait_for()
    begin(station)  # the next task is here already
    press(station, "a q")
    assert review.reviews == {}
    station.context.set_offline(False)
    wait_until(lambda: review.reviews)
    assert stored_drafts(station)[0]["verdicts"][1]["dimensions"] == {"appearance_deformation": 1}
    station.get_by_text("waits to be sent").wait_for(state="hidden")


def test_a_review_that_was_not_sent_before_a_reload_is_sent_after_it_once(station, review, wait_until):
    station.route("**/review/reviews", lambda route: route.abort())
    press(station, "a a a a Enter")
    station.get_by_text("1 review waits to be sent").wait_for()
    station.unroute("**/review/reviews")
    station.reload()
    wait_until(lambda: review.reviews)
    begin(station)
    assert len(review.reviews) == 1


def test_a_review_that_was_not_sent_is_sent_by_the_station_of_another_kind(station, review, wait_until):
    station.route("**/review/reviews", lambda route: route.continue_() if "job=label" in station.url else route.abort())
    press(station, "a a a a Enter")
    station.get_by_text("1 review waits to be sent").wait_for()
    begin(station_of(station, review, "label"))
    wait_until(lambda: review.reviews)
    station.get_by_text("waits to be sent").wait_for(state="hidden")
    assert len(review.reviews) == 1
    stores = "Object.entries(localStorage).filter(([key]) => key.endsWith('/outbox'))"
    assert station.evaluate(stores) == [["screening-review/ann/any/outbox", "[]"]]


def test_a_lost_lease_is_said_and_the_work_is_kept(station, review, wait_until):
    press(station, "a q")
    review.lost |= {"lse_1", "lse_2"}
    station.reload()
    station.get_by_text("The time for this task is over. Your work is kept").wait_for()
    begin(station)
    press(station, "3 a 4 a Enter")
    wait_until(lambda: review.reviews)
    station.get_by_text("It is kept as late work").wait_for()
    (stored,) = review.reviews.values()
    assert stored["lease"] == "lse_1"
    begin(station)
    press(station, "a a a a Enter")
    wait_until(lambda: len(review.reviews) == 2)
    assert [one["lease"] for one in review.reviews.values()] == ["lse_1", "lse_3"]  # nothing was done for lse_2


def test_an_erased_task_goes_away_with_its_draft(station, review, wait_until):
    press(station, "a q")
    review.erased.add("lse_1")
    station.reload()
    station.get_by_text("That task was erased. This is the next one.").wait_for()
    begin(station)
    assert "✓ Usable" not in station.locator("#station").inner_text()
    press(station, "a a a a Enter")
    wait_until(lambda: review.reviews)
    assert [one["lease"] for one in review.reviews.values()] == ["lse_2"]


def test_a_review_of_an_erased_task_is_not_opened_again(station, review, wait_until):
    review.erased.add("lse_1")
    press(station, "a a a a Enter")
    station.get_by_text("The last task was erased before your review arrived.").wait_for()
    begin(station)
    press(station, "a a a a Enter")
    wait_until(lambda: review.reviews)
    assert [one["lease"] for one in review.reviews.values()] == ["lse_2"]


def test_a_404_that_is_not_the_services_costs_no_work(station, review, wait_until):
    """As a proxy answers while it has no route to the service."""
    press(station, "a q")
    review.unrouted = True
    station.reload()  # asks for the lease at once
    station.get_by_text("The service answered 404.").wait_for()
    begin(station)
    press(station, "3 a 4 a Enter")
    station.get_by_text("1 review waits to be sent").wait_for()
    station.get_by_text("The service answered 404.").wait_for()
    review.unrouted = False
    wait_until(lambda: review.reviews)
    (stored,) = review.reviews.values()
    assert stored["lease"] == "lse_1"
    assert [one["usable"] for one in stored["verdicts"]] == [True, False, True, True]


def test_a_refused_review_is_open_again_with_the_reason(station, review, wait_until):
    review.refuse = "The task was erased."
    press(station, "a a a a Enter")
    station.get_by_text("The service refused the review, which is open again: The task was erased.").wait_for()
    review.refuse = None
    begin(station)
    station.wait_for_timeout(400)  # so that the Enter is no second press of the first
    press(station, "Enter")
    wait_until(lambda: len(review.reviews) == 1)


def station_of(page, review, job):
    page.goto(f"{review.url}/review/station?job={job}")
    return page


def sign_in(page, key):
    page.get_by_label("Your review key").fill(key)
    page.get_by_role("button", name="Sign in").click()


def test_after_the_session_has_ended_the_work_is_kept(station, review, wait_until):
    begin(station_of(station, review, "review"))
    review.signed_in = False
    press(station, "a a a a Enter")
    station.get_by_role("link", name="Sign in again").click()
    sign_in(station, "wrong")
    station.get_by_text("This key is unknown").wait_for()
    sign_in(station, "of a shop")
    station.get_by_text("This key may not review").wait_for()
    sign_in(station, "right")
    begin(station)
    wait_until(lambda: review.reviews)
    assert station.url.endswith("/review/station?job=review"), "the kind of tasks from which the person was signed out"


def test_the_sign_in_form_blames_the_key_only_if_the_service_does(open_page, review):
    page = open_page(f"{review.url}/review/sign-in")
    for answer, shown in (
        (problem(403, "The proxy must pass on the Host header.", "cross-origin"), "The proxy must pass on the Host"),
        (problem(403, "No key has the scope 'review'.", "forbidden"), "This key may not review."),
        (Response("Too large", 413), "The service answered 413."),
    ):
        review.no_session = answer
        sign_in(page, "right")
        page.get_by_text(shown).wait_for()
    page.context.set_offline(True)
    sign_in(page, "right")
    page.get_by_text("The service could not be reached.").wait_for()


def test_another_person_who_signs_in_in_a_second_tab_costs_no_work(station, review, wait_until):
    station.locator("#station[data-ahead='2']").wait_for()
    press(station, "a q")
    other = station.context.new_page()
    other.goto(f"{review.url}/review/sign-in")
    sign_in(other, "of ben")
    other.get_by_role("heading", name="Your last reviews").wait_for()
    other.close()
    station.evaluate("dispatchEvent(new Event('online'))")  # the page asks for its lease at once
    station.get_by_role("link", name="Sign in again").wait_for()
    press(station, "3 a 4 a Enter")
    station.get_by_text("1 review waits to be sent").wait_for()
    begin(station)
    press(station, "a")
    assert review.reviews == {}
    station.get_by_role("link", name="Sign in again").click()
    sign_in(station, "right")
    wait_until(lambda: review.reviews)
    begin(station)
    assert [one["lease"] for one in review.reviews.values()] == ["lse_1"]
    assert stored_drafts(station)[0]["verdicts"][0]["usable"] is True
    assert station.get_by_text("✓ Usable").first.is_visible()


def test_a_second_tab_waits_until_it_takes_over(station, review):
    press(station, "a")
    other = station.context.new_page()
    other.goto(station.url)
    other.get_by_role("button", name="Work in this tab instead").click()
    begin(other)
    station.get_by_text("The review station is open in another tab.").wait_for()
    assert other.get_by_text("✓ Usable").first.is_visible()
    assert review.leased == 3


def test_a_skipped_task_is_given_back(station, review, wait_until):
    press(station, "s")
    wait_until(lambda: review.skipped == ["lse_1"])
    begin(station)
    press(station, "a a a a Enter")
    wait_until(lambda: review.reviews)
    assert next(iter(review.reviews.values()))["lease"] == "lse_2"


def test_a_judged_task_is_skipped_after_a_second_press_only(station, review, wait_until):
    warning = station.get_by_text("Press Skip again: your verdicts on this task would be lost.")
    press(station, "a s")
    warning.wait_for()
    press(station, "x")
    warning.wait_for(state="hidden")
    press(station, "s")  # asks again after the change
    warning.wait_for()
    assert [one["usable"] for one in stored_drafts(station)[0]["verdicts"]] == [True, False, None, None]
    assert review.skipped == []
    press(station, "s")
    wait_until(lambda: review.skipped == ["lse_1"])
    warning.wait_for(state="hidden")
    assert all(one["usable"] is None for one in stored_drafts(station)[0]["verdicts"])


def test_a_correction_is_skipped_at_once_unless_it_was_changed(station, review, wait_until):
    warning = station.get_by_text("Press Skip again: your verdicts on this task would be lost.")
    changing = station.get_by_text("You are changing a review that you have sent.")
    press(station, "a a a a Enter")
    wait_until(lambda: review.reviews)
    begin(station)
    press(station, "z")
    changing.wait_for()
    press(station, "s")
    changing.wait_for(state="hidden")
    assert warning.count() == 0
    press(station, "z")
    changing.wait_for()
    begin(station)
    press(station, "q s")
    warning.wait_for()
    station.reload()
    begin(station)
    press(station, "s")  # the change may be lost after a reload too
    warning.wait_for()
    press(station, "s")
    warning.wait_for(state="hidden")
    assert all(one["usable"] is None for one in stored_drafts(station)[0]["verdicts"])
    assert review.skipped == [], "its lease ended with the review"


def test_the_best_picture_is_chosen_among_usable_ones_only(station):
    press(station, "a 1 b")
    station.get_by_text("Mark at least two pictures usable before you choose the best.").wait_for()
    press(station, "2 a 1 b")
    assert stored_drafts(station)[0]["best"] == 1
    press(station, "2 q")
    assert stored_drafts(station)[0]["best"] is None


def test_labelling_shows_no_answer(open_page, serve, wait_until):
    review = serve(FakeReview(job="label"))
    page = begin(open_page(f"{review.url}/review/station?job=label"))
    assert page.get_by_role("heading", name="Label pictures").is_visible()
    press(page, "a a a a Enter")
    wait_until(lambda: review.reviews)
    begin(page)
    press(page, "v")
    page.get_by_text("There is no answer of the model to show.").wait_for()


def test_a_review_of_the_list_opens_as_a_correction(station, review, wait_until):
    press(station, "a a a a Enter")
    wait_until(lambda: review.reviews)
    station.goto(f"{review.url}/review")
    station.get_by_role("link", name="Open the review of").click()
    station.get_by_text("You are changing a review that you have sent.").wait_for()
    begin(station)
    press(station, "q Enter")
    wait_until(lambda: len(review.reviews) == 2)
    first, second = review.reviews.values()
    assert (second["supersedes"], second["lease"]) == (first["id"], first["lease"])


def test_a_review_that_was_corrected_later_is_not_opened(station, review, wait_until):
    press(station, "a a a a Enter")
    station.get_by_text("Last task: the model differs").wait_for()
    press(station, "v e q Enter")
    wait_until(lambda: len(review.reviews) == 2)
    first, second = review.reviews
    station.goto(f"{review.url}/review")
    link = station.get_by_role("link", name="Open the review of")
    assert link.get_attribute("href") == f"review/station?review={second}"
    station.goto(f"{review.url}/review/station?review={first}")
    station.get_by_text("You have corrected this review later. Open the newer one.").wait_for()
    assert all(one["usable"] is None for one in stored_drafts(station)[0]["verdicts"])


def test_a_correction_of_a_review_that_was_corrected_elsewhere_can_be_sent(station, review, wait_until):
    press(station, "a a a a Enter")
    wait_until(lambda: review.reviews)
    (first,) = review.reviews.values()
    begin(station)
    press(station, "z")
    station.get_by_text("You are changing a review that you have sent.").wait_for()
    review.reviews["other"] = {**first, "id": "other", "supersedes": first["id"]}
    press(station, "q Enter")
    station.get_by_text("open again: supersedes: this is not your last review of this task.").wait_for()
    station.reload()
    begin(station)
    press(station, "1 q Enter")
    wait_until(lambda: len(review.reviews) == 3)
    *_, last = review.reviews.values()
    assert (last["supersedes"], last["lease"]) == (None, first["lease"])
    assert last["verdicts"][0]["dimensions"] == {"appearance_deformation": 2}
    assert "lse_1" not in review.beats  # its lease ended with the first review
