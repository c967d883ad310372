//! The runner of the transcripts itself: it has to notice what differs.

mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use support::pattern::{Captures, contains, fill, matches};

/// The words with which a transcript fails.
fn mismatch(text: &str) -> String {
    let result = catch_unwind(AssertUnwindSafe(|| support::run_text("case", text)));
    let error = result.expect_err("the transcript is wrong and must fail");
    *error.downcast::<String>().expect("a panic with words")
}

const SIGN_ON: &str =
    "kind held\nsign_on 0\n> REGISTER sip:pool.test [r]\n< 200 [r]\n    Contact: <{contact}>\n";

#[test]
fn a_mismatch_names_line_expectation_and_message() {
    let words = mismatch("kind held\nsign_on 0\n> REGISTER sip:pool.test\n    Expires: 601\n");
    assert!(words.contains("case:3: > REGISTER sip:pool.test"), "{words}");
    assert!(words.contains("Expires: 601") && words.contains("Expires: 600"), "{words}");
}

#[test]
fn what_is_not_expected_is_noticed() {
    let words = mismatch("kind held\nsign_on 0\n+1s\n");
    assert!(words.contains("nothing more before this line"), "{words}");
    let words = mismatch(&format!("{SIGN_ON}> REGISTER sip:pool.test\n"));
    assert!(words.contains("--- sent\nnothing"), "{words}");
}

#[test]
fn headers_are_counted_and_absence_is_checked() {
    let words = mismatch("kind held\nsign_on 0\n> REGISTER sip:pool.test\n    Expires: -\n");
    assert!(words.contains("no Expires"), "{words}");
    let words = mismatch("kind held\nsign_on 0\n> REGISTER sip:pool.test\n    Route: <sip:a>\n");
    assert!(words.contains("Route: <sip:a>"), "{words}");
}

#[test]
fn instants_are_checked() {
    let words = mismatch("kind held\nsign_on 0\n> REGISTER sip:pool.test [r] @1s\n");
    assert!(words.contains("it was after 0 ms"), "{words}");
}

#[test]
fn what_is_left_or_not_named_fails() {
    let words = mismatch(SIGN_ON);
    assert!(words.contains("nothing is left") && words.contains("registered"), "{words}");
    let refused = "kind held\nsign_on 0\n> REGISTER sip:pool.test [r]\n< 500 [r]\nsign_off 0\n";
    let words = mismatch(refused);
    assert!(words.contains("no failure that is not named") && words.contains("sip:500"), "{words}");
    let words = mismatch(&format!("{refused}failed register pool sip:503\n"));
    assert!(words.contains("register pool sip:500"), "{words}");
    let words = mismatch(&format!("{SIGN_ON}count offered 3\n"));
    assert!(words.contains("offered is 0"), "{words}");
}

#[test]
fn holes_take_and_hold() {
    let mut captures = Captures::new();
    assert!(matches("a={x};b={y}", "a=1;b=2;c", &mut captures));
    assert_eq!((captures["x"].as_str(), captures["y"].as_str()), ("1", "2;c"));
    assert!(!matches("{x}{y}", "12;d", &mut captures), "both are known by now");
    assert!(contains("<{n}>", "say <n>", &mut captures) && captures["n"] == "n");
    assert!(!matches("{new}", "", &mut captures) && matches("{*}", "", &mut captures));
    assert_eq!(
        fill("{x}-{q}", "r", &Captures::from([("x".into(), "1".into()), ("r.q".into(), "2".into())])),
        Ok("1-2".into())
    );
    assert!(fill("{nobody}", "r", &captures).is_err());
}
