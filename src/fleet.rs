//! `adsum coordinator`, `adsum agent`: a fleet of several processes or hosts.

use adsum_agent::engine::AgentOptions;
use adsum_agent::link::{self, Identity, LinkError};
use adsum_coordinator::control;
use adsum_coordinator::scenario::quantity;
use tokio::sync::watch;

use crate::cli::{Agent, Coordinator, Realtime, Stamps};
use crate::exit;

pub fn agent(args: &Agent) -> u8 {
    match options(args).and_then(|options| serve(args, &options)) {
        Ok(()) => 0,
        Err((code, text)) => {
            eprintln!("adsum: {text}");
            code
        }
    }
}

fn options(args: &Agent) -> Result<AgentOptions, (u8, String)> {
    let allow: Result<Vec<_>, _> = args.allow.iter().map(|text| text.parse()).collect();
    let allow =
        allow.map_err(|e: adsum_agent::net::allow::NetworkError| (exit::USAGE, format!("--allow: {e}")))?;
    let max_rate_mhz = match &args.max_rate {
        None => 0,
        Some(text) => quantity::rate(text)
            .map_err(|e| (exit::USAGE, format!("--max-rate {text}: write a rate such as 600/s ({e:?})")))?,
    };
    Ok(AgentOptions {
        allow: Some(allow),
        max_rate_mhz,
        shards: args.shards,
        trace: None,
        realtime: args.realtime == Realtime::Auto,
        user_stamps: args.stamps == Stamps::User,
    })
}

fn serve(args: &Agent, options: &AgentOptions) -> Result<(), (u8, String)> {
    let facts = adsum_agent::host::facts();
    let name = args.name.clone().unwrap_or_else(|| facts.name.to_lowercase());
    let incarnation = u64::from(std::process::id()) << 32
        ^ std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| u64::from(d.subsec_nanos()));
    let identity = Identity { name, site: args.site.clone(), incarnation };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| (exit::INTERNAL, e.to_string()))?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(async move {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut a), Ok(mut b)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! { _ = a.recv() => {}, _ = b.recv() => {} }
            // Nobody listens once the link has ended.
            let _ = stop.send(true);
        });
        let channel = dial(&args.coordinator, args.ca.as_ref(), args.cert.as_ref(), args.key.as_ref())
            .await
            .map_err(|e| (exit::NOT_STARTED, e.to_string()))?;
        link::serve(channel, &identity, options, stopped)
            .await
            .map_err(|e| (exit::NOT_STARTED, e.to_string()))
    })
}

pub fn coordinator(args: &Coordinator) -> u8 {
    if args.ca.is_none() && !args.listen.ip().is_loopback() {
        eprintln!(
            "adsum: {} is not loopback: give --ca, --cert and --key (adsum certs makes some)",
            args.listen
        );
        return exit::USAGE;
    }
    let read = |path: &Option<std::path::PathBuf>| match path {
        None => Ok(Vec::new()),
        Some(path) => std::fs::read(path).map_err(|e| format!("{}: {e}", path.display())),
    };
    let served = (|| {
        let (ca, cert, key) = (read(&args.ca)?, read(&args.cert)?, read(&args.key)?);
        let tls = args.ca.is_some().then_some(control::Tls { ca, cert, key });
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|e| e.to_string())?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(args.listen)
                .await
                .map_err(|e| format!("{}: {e}", args.listen))?;
            let address = listener.local_addr().map_err(|e| e.to_string())?;
            println!("ready coordinator={address} tls={}", tls.is_some());
            let control = control::Control::new(args.results.clone());
            control.serve(listener, tls).await.map_err(|e| e.to_string())
        })
    })();
    match served {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("adsum: {error}");
            exit::NOT_STARTED
        }
    }
}

/// A connection to a coordinator, with TLS if there are certificates.
pub async fn dial(
    address: &str,
    ca: Option<&std::path::PathBuf>,
    cert: Option<&std::path::PathBuf>,
    key: Option<&std::path::PathBuf>,
) -> Result<tonic::transport::Channel, LinkError> {
    let Some(ca) = ca else { return link::connect(address).await };
    let read = |path: Option<&std::path::PathBuf>| {
        let path = path.cloned().unwrap_or_default();
        std::fs::read(&path).map_err(|e| LinkError::Lost(format!("{}: {e}", path.display())))
    };
    let (ca, cert, key) = (read(Some(ca))?, read(cert)?, read(key)?);
    link::connect_tls(address, &ca, &cert, &key).await
}
