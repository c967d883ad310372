//! `adsum pool`: the embedded presence pool on its own.

use std::time::Duration;

use adsum_pool::config::{Dialect, LyncConfig, LyncScheme};
use adsum_pool::{Pool, PoolConfig};

use crate::cli;
use crate::exit;

/// Descriptors that are not for connections: listeners, timer, files, standard streams.
const RESERVED_FILES: u64 = 32;

pub fn pool(args: &cli::Pool) -> u8 {
    if let Some(mistake) = without_effect(args) {
        eprintln!("adsum: {mistake}");
        return exit::USAGE;
    }
    // Connections beyond it are refused and counted, instead of waiting for a descriptor.
    let files = adsum_agent::host::raise_file_limit().saturating_sub(RESERVED_FILES);
    let default = PoolConfig::default();
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
        max_connections: default.max_connections.min(usize::try_from(files).unwrap_or(usize::MAX)),
        ..default
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

/// A flag that nothing would come of: whoever gives it believes in a fault that is not there.
fn without_effect(args: &cli::Pool) -> Option<String> {
    let lync = &args.lync;
    let of_lync = [
        ("--nt-domain", lync.nt_domain.is_some()),
        ("--schemes", lync.schemes != [LyncScheme::Ntlm]),
        ("--proxy-auth", lync.proxy_auth),
        ("--sipae-version", lync.sipae_version != 4),
        ("--ntlm-mic", lync.ntlm_mic),
        ("--association-lifetime", lync.association_lifetime.is_some()),
        ("--tls-client-ca", args.tls_client_ca.is_some()),
        ("--bare-containers", lync.bare_containers),
        ("--single-as-multipart", lync.single_as_multipart),
        ("--unknown-as-404", lync.unknown_as_404),
        ("--wrong-rspauth", lync.wrong_rspauth > 0.0),
        ("--conflict-every", lync.conflict_every > 0),
        ("--notify-instead", lync.notify_instead),
        ("--no-piggyback", lync.no_piggyback),
        ("--redirect-to", lync.redirect_to.is_some()),
        ("--deregister-after", lync.deregister_after.is_some()),
        ("--resubscribe", lync.resubscribe > 0.0),
    ];
    let of_simple = [
        ("--sha256", args.sha256 && !lync.schemes.contains(&LyncScheme::Digest)),
        ("--drop", args.drop > 0.0),
        ("--duplicate", args.duplicate > 0.0),
        ("--reorder", args.reorder > 0.0),
        ("--notify-from", args.notify_from.is_some()),
    ];
    let first =
        |flags: &[(&'static str, bool)]| flags.iter().find(|(_, given)| *given).map(|(name, _)| *name);
    match args.dialect {
        Dialect::Simple => first(&of_lync)
            .map(|name| format!("{name} is about the lync dialect: add --dialect lync (or both)")),
        Dialect::Lync => first(&of_simple).map(|name| {
            format!(
                "{name} is about UDP or digest: use --dialect simple or both (or, for digest, --schemes digest)"
            )
        }),
        Dialect::Both => None,
    }
    .or_else(|| {
        let digest = lync.proxy_auth && lync.schemes.contains(&LyncScheme::Digest);
        digest.then(|| "--proxy-auth is about NTLM: take digest out of --schemes".to_owned())
    })
    .or_else(|| {
        let asked = [
            ("--nt-domain", lync.nt_domain.is_some()),
            ("--schemes", lync.schemes != [LyncScheme::Ntlm]),
            ("--proxy-auth", lync.proxy_auth),
            ("--sipae-version", lync.sipae_version != 4),
            ("--ntlm-mic", lync.ntlm_mic),
            ("--association-lifetime", lync.association_lifetime.is_some()),
            ("--wrong-rspauth", lync.wrong_rspauth > 0.0),
        ];
        let name = first(&asked).filter(|_| args.no_auth)?;
        Some(format!("{name} is about challenges and signatures, of which there are none with --no-auth"))
    })
}

fn lync(args: &cli::PoolLync) -> LyncConfig {
    LyncConfig {
        nt_domain: args.nt_domain.clone(),
        schemes: args.schemes.clone(),
        proxy_auth: args.proxy_auth,
        sipae_version: args.sipae_version,
        ntlm_mic: args.ntlm_mic,
        association_lifetime: args.association_lifetime.unwrap_or(LyncConfig::default().association_lifetime),
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
