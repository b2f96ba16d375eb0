"""The faults that Tidegate is built to survive or to refuse, and the tests that inject each.

Rows keep their numbers for good. `docs/reference/faults.md` is written from this list, and a test holds it
against the tests that exist.
"""

from __future__ import annotations

from typing import NamedTuple


class Fault(NamedTuple):
    """One row.

    Attributes:
        number: Its number.
        fault: What happens.
        expected: What Tidegate does.
        tests: Those that make it happen: path below tests/, `::`, name.
        open: Why there is none yet, in words; empty if there are some.
    """

    number: int
    fault: str
    expected: str
    tests: tuple[str, ...] = ()
    open: str = ""


FAULTS = (
    Fault(
        1,
        "a worker is killed (SIGKILL) in the middle of a batch",
        "what was not acknowledged fails at once; connections wait for its successor; no answer is lost",
        (
            "system/test_kill.py::test_every_acknowledged_prediction_is_journalled_and_counted_exactly_once",
            "system/test_kill.py::test_a_worker_killed_with_a_request_under_way_fails_it_at_once_and_leaves_a_whole_segment",
            "faults/test_restart.py::test_connections_to_a_worker_that_was_killed_wait_for_the_next",
        ),
    ),
    Fault(
        2,
        "the whole server is killed",
        "it starts from the last route; the journal is whole to the last acknowledged record",
        (
            "system/test_kill.py::test_every_acknowledged_prediction_is_journalled_and_counted_exactly_once",
            "journal/test_crash.py::test_every_append_that_returned_is_read_once_after_kill_9",
        ),
    ),
    Fault(
        3,
        "whoever moves traffic is killed in the middle",
        "the old or the new generation, never a mixture; repeated under its key it is done once",
        (
            "operation/test_release.py::test_move_whose_process_died_is_resumed_under_its_key",
            "operation/test_release.py::test_move_whose_process_died_is_told_by_the_next_operation",
            "route/test_store.py::test_no_schedule_of_stops_and_deaths_loses_or_undoes_a_change",
        ),
    ),
    Fault(
        4,
        "the database is down during a promotion",
        "it is refused, and serving does not change",
        (
            "operation/test_release.py::test_switch_with_the_database_down_is_refused_and_serving_is_unchanged",
            "system/test_swap.py::test_without_the_database_nothing_moves_forward_and_a_rollback_works",
        ),
    ),
    Fault(
        5,
        "the database is down during a rollback",
        "it works locally, is noted, and is kept once the database is back",
        (
            "operation/test_release.py::test_rollback_with_the_database_down_moves_traffic_and_is_kept_later",
            "operation/test_release.py::test_rollback_asks_no_database_before_traffic_has_moved",
            "system/test_swap.py::test_without_the_database_nothing_moves_forward_and_a_rollback_works",
        ),
    ),
    Fault(
        6,
        "nobody knows whether a commit happened",
        "it is looked up by its key and never applied twice",
        (
            "operation/test_mutation.py::test_commit_of_unknown_outcome_is_looked_up_and_done_once",
            "operation/test_mutation.py::test_commit_that_stays_unknown_is_told_and_the_key_settles_it",
            "operation/test_release.py::test_decision_whose_commit_was_lost_on_the_way_is_kept_once",
        ),
    ),
    Fault(
        7,
        "the disk is full while the journal is written",
        "as the service's journal mode says: served on and counted, or 503",
        (
            "system/test_durability_mode.py::test_a_full_disk_is_answered_as_each_service_declares",
            "serving/test_dataplane.py::test_answers_as_the_journal_mode_says_when_the_disk_is_full",
            "journal/test_segment.py::test_a_full_disk_leaves_whole_frames_and_says_how_many",
        ),
    ),
    Fault(
        8,
        "a torn write or a flipped bit in the journal or an artifact",
        "the checksum finds it; the journal is read up to it and it is reported; the artifact is refused",
        (
            "journal/test_reader.py::test_any_truncation_gives_the_frames_before_it",
            "journal/test_reader.py::test_a_flipped_bit_ends_reading_before_its_frame",
            "journal/test_tailer.py::test_damage_is_reported_and_the_next_segment_goes_on",
            "system/test_swap.py::test_a_damaged_artifact_is_refused_and_served_once_it_is_restored",
        ),
    ),
    Fault(
        9,
        "fsync reports an error",
        "what it covered counts as lost; a durable service does not acknowledge it",
        ("journal/test_segment.py::test_a_failed_sync_loses_the_segment_and_not_the_next",),
    ),
    Fault(
        10,
        "a broker is down",
        "a bounded spool, replayed without duplicates",
        open="there are no streams yet",
    ),
    Fault(11, "a metric is missing or NaN", "undecided; it never passes", open="its part is being built"),
    Fault(
        12, "a canary gets no traffic", "it holds, then goes back to stable", open="its part is being built"
    ),
    Fault(
        13,
        "an artifact is corrupt or cut short",
        "its digest does not fit, and it is not loaded",
        (
            "adapter/files/test_artifact.py::test_damaged_file_is_refused_at_every_load_by_digest_and_path",
            "adapter/files/test_artifact.py::test_damaged_folder_is_refused_and_storing_it_again_heals_it",
        ),
    ),
    Fault(
        14,
        "the artifact store is away",
        "the running version and the one to go back to are in memory and serve",
        ("faults/test_model.py::test_serving_and_rollback_go_on_while_the_artifacts_are_away",),
    ),
    Fault(
        15,
        "a version crashes while it loads, or needs too much memory",
        "a process of its own fails; it gets no traffic",
        ("system/test_swap.py::test_a_version_that_cannot_serve_gets_no_traffic",),
    ),
    Fault(
        16,
        "NaN, infinity, a wrong shape or a value against the contract from a model",
        "a contract violation: the fallback answers, or a 5xx with its code; the version is charged",
        (
            "system/test_misbehaving_model.py::test_an_answer_against_the_contract_is_a_journalled_500_naming_the_field",
            "system/test_misbehaving_model.py::test_one_bad_row_fails_its_own_request_only",
            "system/test_misbehaving_model.py::test_a_declared_fallback_answers_and_says_so",
        ),
    ),
    Fault(
        17,
        "a model hangs",
        "its callers are answered in time; its process is ended and started anew",
        (
            "system/test_misbehaving_model.py::test_a_model_that_hangs_is_a_504_within_the_time_the_caller_gave",
            "system/test_misbehaving_model.py::test_a_model_that_never_answers_is_ended_and_its_process_returns",
            "system/test_isolation.py::test_a_call_that_hangs_ends_with_the_last_deadline_of_those_who_wait_for_it",
            "system/test_isolation.py::test_a_call_may_take_longer_than_half_a_minute_where_its_caller_waits",
        ),
    ),
    Fault(
        18,
        "a model leaks memory",
        "its process is replaced by another before it hurts",
        (
            "system/test_isolation.py::test_a_model_that_leaks_is_replaced_while_it_serves_and_no_request_fails",
            "serving/test_runner.py::test_a_runner_that_hands_over_answers_what_it_has_and_loses_nothing",
        ),
    ),
    Fault(
        19,
        "a model's process ends again and again",
        "it is started with growing pauses, then left out, and said so",
        (
            "system/test_misbehaving_model.py::test_a_model_that_ends_its_process_is_a_journalled_503_and_the_process_returns",
            "system/test_isolation.py::test_a_crash_loop_is_kept_away_for_longer_and_longer_and_said_so",
        ),
    ),
    Fault(
        20,
        "a model holds the interpreter's lock",
        "only its own callers wait; health and all other services answer",
        ("faults/test_model.py::test_a_model_that_holds_the_interpreter_lock_costs_only_its_own_callers",),
    ),
    Fault(
        21,
        "clients that send slowly (slowloris) or never read",
        "timeouts for head, body and idle time; no worker is held",
        (
            "faults/test_network.py::test_clients_that_send_a_byte_at_a_time_hold_nobody_up",
            "faults/test_network.py::test_a_client_that_never_reads_its_answers_stops_being_read_and_costs_no_memory",
            "serving/http/test_connection.py::test_request_that_takes_too_long_is_408",
        ),
    ),
    Fault(
        22,
        "a client disconnects",
        "what waits of it is not run; what was acknowledged is in the journal once",
        (
            "faults/test_network.py::test_connections_that_are_cut_anywhere_leave_the_books_right",
            "faults/test_network.py::test_what_a_client_that_has_gone_asked_for_is_not_journalled_as_answered_twice",
            "serving/test_dataplane.py::test_runs_nothing_for_a_caller_who_has_gone",
        ),
    ),
    Fault(
        23,
        "bodies that are too large, chunked without end, or compressed bombs",
        "413 before they are read; a cap on what they decompress to",
        (
            "serving/http/test_connection.py::test_announced_body_that_is_too_large_is_413_before_it_is_read",
            "serving/http/test_connection.py::test_chunked_body_that_grows_too_large_is_413",
            "serving/http/test_connection.py::test_bodies_compressed_wrongly_are_refused",
        ),
    ),
    Fault(
        24,
        "bad JSON, deep nesting, NaN literals, wrong types, unknown fields",
        "a 4xx that names the field, bounded, never a 5xx",
        (
            "system/test_bad_input.py::test_a_body_that_is_not_json_of_some_form_is_a_400",
            "system/test_bad_input.py::test_a_value_against_the_contract_is_a_422_that_names_the_field",
            "system/test_bad_input.py::test_what_the_document_forbids_is_answered_as_it_says",
        ),
    ),
    Fault(
        25,
        "an input that brings down every version",
        "it is put in quarantine by its fingerprint, and charged to no version",
        (
            "system/test_isolation.py::test_an_input_that_ends_the_process_is_refused_and_nobody_else",
            "serving/test_quarantine.py::test_one_poisonous_row_costs_no_more_crashes_than_halving_takes",
            "serving/test_quarantine.py::test_an_input_that_ends_two_versions_is_at_fault_itself",
            "serving/test_runner.py::test_a_row_in_quarantine_costs_its_own_request_and_is_flagged_if_no_version_survives_it",
        ),
    ),
    Fault(
        26,
        "the clock jumps by an hour",
        "deadlines run on the monotonic clock; the journal keeps its order",
        (
            "faults/test_clock.py::test_requests_are_answered_and_journalled_across_a_jump",
            "journal/test_segment.py::test_names_sort_by_sequence_when_the_clock_jumps_back",
        ),
    ),
    Fault(
        27,
        "a process is stopped (SIGSTOP) and goes on later",
        "what it was about to write is refused; a worker that stands is replaced",
        (
            "route/test_process.py::test_writer_stopped_in_the_middle_of_a_change_cannot_undo_a_newer_one",
            "system/test_swap.py::test_a_switch_stopped_in_its_commit_cannot_undo_a_rollback",
            "system/test_kill.py::test_a_worker_that_stands_still_is_replaced",
        ),
    ),
    Fault(
        28,
        "two people move traffic at once",
        "one wins, the other is told",
        ("release/test_switch.py::test_of_two_who_switch_at_once_the_first_wins",),
    ),
    Fault(
        29,
        "a rollback during a canary or a promotion",
        "the rollback wins",
        (
            "release/test_rollback.py::test_rollback_during_a_switch_wins",
            "release/test_rollback.py::test_rollback_of_a_canary_gives_stable_everything_back",
        ),
    ),
    Fault(
        30, "an abort with nothing running", "nothing happens, and it is said", open="its part is being built"
    ),
    Fault(
        31,
        "the version to go back to is bad too",
        "the next one that was good, then the declared fallback",
        (
            "release/test_rollback.py::test_rollback_walks_past_versions_that_cannot_load",
            "release/test_rollback.py::test_rollback_with_nowhere_to_go_ends_in_the_fallback",
        ),
    ),
    Fault(
        32,
        "a version is slow to become ready",
        "it gets no traffic until it is; stable serves on",
        (
            "release/test_switch.py::test_switch_waits_for_the_slowest_worker",
            "release/test_switch.py::test_switch_that_runs_out_of_time_says_who_kept_it_waiting",
        ),
    ),
    Fault(
        33,
        "controller and workers cannot reach each other",
        "the last route is served; the controller that returns goes on",
        ("system/test_kill.py::test_every_acknowledged_prediction_is_journalled_and_counted_exactly_once",),
    ),
    Fault(
        34,
        "a shadow is slow or down",
        "its copies are dropped first, and counted",
        (
            "serving/test_shadow.py::test_a_shadow_that_stands_still_delays_nobody_and_its_queue_is_bounded",
            "serving/test_shadow.py::test_a_busy_worker_drops_copies_first_and_counts_them",
        ),
    ),
    Fault(
        35,
        "outcomes come twice, late, or contradict each other",
        "each is counted once, with its history",
        (
            "system/test_outcome.py::test_each_outcome_is_joined_once_across_repetitions_corrections_and_restarts",
            "journal/test_outcome.py::test_any_order_of_delivery_ends_the_same",
        ),
    ),
    Fault(36, "whoever is to be notified is away", "it is tried again", open="its part is being built"),
    Fault(
        37,
        "a migration of the schema is half done",
        "the next process completes it; an older release says that it does not know the newer schema",
        (
            "adapter/sql/test_migrate.py::test_creation_that_is_killed_anywhere_is_done_by_the_next",
            "adapter/sql/test_migrate.py::test_schema_of_a_later_release_is_refused_in_words",
        ),
    ),
    Fault(
        38,
        "ten times the load during a promotion or a rollback",
        "it happens in time all the same",
        open="its part is being built",
    ),
    Fault(
        39,
        "the disk stands still for seconds",
        "health answers; requests wait no longer than they may, then go as the journal mode says",
        (
            "serving/test_stall.py::test_callers_are_answered_within_their_time_and_the_loop_goes_on",
            "serving/test_stall.py::test_a_full_pipe_in_place_of_the_disk_stands_and_goes_on",
        ),
    ),
)
