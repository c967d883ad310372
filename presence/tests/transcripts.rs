//! Protocol transcripts: each file in `transcripts/` is one exchange with a
//! server that answers as written there. See `transcripts/README.md`.

mod support;

macro_rules! transcripts {
    ($($name:ident)*) => {
        const LISTED: &[&str] = &[$(stringify!($name)),*];
        $(
            #[test]
            fn $name() {
                run(stringify!($name));
            }
        )*
    };
}

transcripts! {
    accepted
    already_gone
    compact_and_folded
    digest
    digest_new_nonce
    digest_nextnonce
    digest_proxy
    digest_reuse
    digest_stale
    digest_two_challenges
    digest_unsupported
    digest_wrong_password
    etag_missing
    etag_unknown
    etag_unknown_refresh
    expires_in_answer
    expires_shortened
    expires_tiny
    extension_required
    extension_unsupported
    first_notify_empty
    first_notify_missing
    flow_lost
    flow_lost_while_asking
    forbidden
    forbidden_reused_nonce
    forbidden_without_credentials
    forked
    lync_benotify
    lync_carrier_gone
    lync_conflict
    lync_contacts
    lync_deregistered
    lync_deregistered_asking
    lync_first_notify_missing
    lync_keep_alive
    lync_members
    lync_not_trusted
    lync_old_server
    lync_present
    lync_redirect
    lync_refresh
    lync_registration_expired
    lync_registration_lost
    lync_resubscribe
    lync_resubscribe_elsewhere
    lync_resubscribe_silent
    lync_schemes
    lync_workflow
    lync_workflow_terminated
    min_expires_publish
    min_expires_register
    min_expires_subscribe
    no_answer
    no_answer_workflow
    notify_before_publish_answer
    notify_first
    notify_late
    notify_missing
    notify_reordered
    notify_retransmitted
    old_generation
    overloaded_held
    overloaded_subscription
    overloaded_workflow
    pending
    provisional
    record_route_answer
    record_route_notify
    redirect_blocked
    redirect_limit
    redirect_proxy
    redirect_stream
    redirect_stream_blocked
    redirect_stream_limit
    redirect_stream_not_followed
    redirect_stream_refresh
    redirect_stream_unreachable
    redirect_udp
    redirect_without_contact
    refresh_document
    refresh_document_503
    refresh_notify_missing
    refresh_register_503
    refresh_registration
    refresh_subscription
    registration_without_contact
    rejected_publish
    rejected_refresh
    requests_to_us
    sign_off_during_publish
    sign_off_during_refused_subscribe
    sign_off_during_register
    sign_off_during_subscribe
    strict_route
    subscribe_refused
    subscription_gone
    superseded
    target_refresh
    terminated_at_once
    terminated_deactivated
    terminated_giveup
    terminated_noresource
    terminated_probation
    terminated_rejected
    terminated_self_at_once
    terminated_self_probation
    terminated_timeout
    unknown_dialog
    unknown_event
    workflow
}

/// Runs the transcript of that name.
fn run(name: &str) {
    let path = support::directory().join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
    support::run_text(name, &text);
}

#[test]
fn the_example_in_the_readme_runs() {
    let readme = std::fs::read_to_string(support::directory().join("README.md")).unwrap();
    let example = readme.split("```text\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    support::run_text("README.md", example);
}

#[test]
fn every_file_is_run_and_explained() {
    let readme = std::fs::read_to_string(support::directory().join("README.md")).unwrap();
    let mut files: Vec<String> = std::fs::read_dir(support::directory())
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.strip_suffix(".txt").map(str::to_owned))
        .collect();
    files.sort();
    let mut listed: Vec<String> = LISTED.iter().map(|name| (*name).to_owned()).collect();
    listed.sort();
    assert_eq!(files, listed);
    for name in files {
        assert!(readme.contains(&format!("| `{name}` |")), "README.md does not list `{name}`");
    }
}
