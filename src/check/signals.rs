//! What ends checks before they are done: Ctrl-C, SIGTERM, a terminal that is
//! closed, a reader that goes away. None of them leaves a document behind.

use std::io::Write as _;
use std::sync::atomic::{AtomicU8, Ordering};

use adsum_agent::check::Stop;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// For all checks of this process.
pub static STOP: Stop = Stop::new();
/// The exit code that the first reason to stop asks for; 0 for none.
static CODE: AtomicU8 = AtomicU8::new(0);

/// Exit codes of what ends checks: 128 and the number of the signal.
const REASONS: [(SignalKind, u8); 3] =
    [(SignalKind::interrupt(), 130), (SignalKind::terminate(), 143), (SignalKind::hangup(), 129)];
/// Nobody reads the output any more (SIGPIPE).
const UNREAD: u8 = 141;

/// Listens from now on: the first signal asks all checks to sign off, the second to stop at once.
pub fn listen() -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let guard = runtime.enter();
    let mut heard = Vec::new();
    for (kind, code) in REASONS {
        heard.push((signal(kind)?, code));
    }
    drop(guard);
    // It ends with the process.
    std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            loop {
                let code = next(&mut heard).await;
                if STOP.asked() == 0 {
                    say("adsum: signing off; once more stops at once");
                }
                stop(code);
            }
        });
    })?;
    Ok(())
}

/// The code of the signal that comes first.
async fn next(heard: &mut [(Signal, u8)]) -> u8 {
    std::future::poll_fn(|context| {
        let mut come = None;
        for (signal, code) in heard.iter_mut() {
            // All are asked, so that each knows whom to wake.
            if signal.poll_recv(context).is_ready() {
                come = come.or(Some(*code));
            }
        }
        come.map_or(std::task::Poll::Pending, std::task::Poll::Ready)
    })
    .await
}

fn stop(code: u8) {
    let _ = CODE.compare_exchange(0, code, Ordering::Relaxed, Ordering::Relaxed);
    STOP.ask();
}

/// The exit code of what ended the checks, if anything did.
pub fn code() -> Option<u8> {
    Some(CODE.load(Ordering::Relaxed)).filter(|code| *code != 0)
}

/// Prints an answer. If nobody reads on, the checks that run sign off, and the program ends quietly.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() && code().is_none() {
        stop(UNREAD);
    }
}

/// Says something on standard error; where nobody hears it, nobody misses it.
pub fn say(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}
