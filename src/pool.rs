//! `adsum pool`: the embedded presence pool on its own.

use std::time::Duration;

use adsum_pool::config::LyncConfig;
use adsum_pool::{Pool, PoolConfig};

use crate::cli;
use crate::exit;

pub fn pool(args: &cli::Pool) -> u8 {
    let config = PoolConfig {
        listen: args.listen,
        tls_listen: args.tls_listen,
        tls_dir: args.tls_dir.clone(),
        users: args.users,
        domain: args.domain.clone(),
        auth: !args.no_auth,
        sha256: args.sha256,
        seed: args.seed,
        answer_delay: args.answer_delay,
        notify_delay: args.notify_delay,
        stall: args.stall,
        capacity: args.capacity,
        drop: args.drop,
        duplicate: args.duplicate,
        reorder: args.reorder,
        reject: args.reject.clone(),
        hold_notify: args.hold_notify,
        lose_notify: args.lose_notify,
        strip_note: args.strip_note,
        notify_from: args.notify_from,
        dialect: args.dialect,
        tls_client_ca: args.tls_client_ca.clone(),
        lync: lync(&args.lync),
        ..PoolConfig::default()
    };
    let pool = match Pool::start(config) {
        Ok(pool) => pool,
        Err(error) => {
            eprintln!("adsum: {error}");
            return exit::NOT_STARTED;
        }
    };
    let tls = pool.tls_address().map_or_else(String::new, |a| format!(" tls={a}"));
    println!("ready udp,tcp={}{tls} domain={} users={}", pool.address(), args.domain, args.users);
    wait_for_signal();
    let stats = pool.stop();
    eprintln!("{stats}");
    0
}

fn lync(args: &cli::PoolLync) -> LyncConfig {
    LyncConfig {
        nt_domain: args.nt_domain.clone(),
        schemes: args.schemes.clone(),
        sipae_version: args.sipae_version,
        ntlm_mic: args.ntlm_mic,
        trusted_cn: args.trusted_cn.clone(),
        bare_containers: args.bare_containers,
        single_as_multipart: args.single_as_multipart,
        unknown_as_404: args.unknown_as_404,
        wrong_rspauth: args.wrong_rspauth,
        conflict_every: args.conflict_every,
        notify_instead: args.notify_instead,
        no_piggyback: args.no_piggyback,
        redirect_to: args.redirect_to.clone(),
        deregister_after: args.deregister_after,
        resubscribe: args.resubscribe,
    }
}

/// Returns at Ctrl-C or SIGTERM.
fn wait_for_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return std::thread::sleep(Duration::from_secs(u64::MAX)) };
    runtime.block_on(async {
        let (Ok(mut a), Ok(mut b)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        tokio::select! { _ = a.recv() => {}, _ = b.recv() => {} }
    });
}
