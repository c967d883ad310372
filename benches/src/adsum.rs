//! adsum from outside: the program, its pool, a generated scenario, one run of
//! it, and what its files count.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::options::{Auth, Build, Connections, Transport};
use crate::process::{self, Named as _, Process, Result, said};
use crate::sample::Sample;

/// The program, built the way users build it.
#[derive(Debug, Clone)]
pub struct Adsum {
    program: PathBuf,
    pub profile: String,
}

/// A scenario in the few words that benchmarks vary.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub target: String,
    pub transport: Transport,
    pub connections: Connections,
    pub kind: &'static str,
    pub self_subscribe: bool,
    pub reuse_nonce: bool,
    pub users: u64,
    pub rate: u64,
    pub hold: Duration,
    /// `ca.pem` to trust, for TLS.
    pub ca: Option<PathBuf>,
    /// Local addresses to send from; empty for any.
    pub sources: u64,
    /// Log-ons a second, for held users.
    pub log_on: u64,
    /// Wake-ups of adsum at whole multiples of so many microseconds; 0: at each event.
    pub quantum_us: u64,
    /// Threads of adsum; 0: one a core.
    pub shards: u32,
    /// In the dialect lync, with NTLM.
    pub lync: bool,
}

impl Scenario {
    /// Whole workflows in the way SIPp does them: no SelfSubscribe, every request challenged.
    pub fn like_sipp(target: String, transport: Transport, connections: Connections) -> Scenario {
        Scenario {
            target,
            transport,
            connections,
            kind: "workflow",
            self_subscribe: false,
            reuse_nonce: false,
            users: 2,
            rate: 1,
            hold: Duration::from_secs(1),
            ca: None,
            sources: 0,
            log_on: 1_000,
            quantum_us: 0,
            shards: 0,
            lync: false,
        }
    }

    /// So many pairs at so many a second.
    pub fn pairs(mut self, pairs: u64, rate: u64) -> Scenario {
        self.rate = rate;
        self.hold = Duration::from_nanos(pairs * 1_000_000_000 / rate.max(1));
        self
    }

    fn text(&self) -> String {
        let tls = self.ca.as_ref().map_or_else(String::new, |ca| {
            format!("tls = {{ ca = {:?}, server_name = \"localhost\" }}\n", ca.display().to_string())
        });
        let source = match self.sources {
            0 => String::new(),
            n => format!("source = [\"127.0.1.1-127.0.1.{n}\"]\n"),
        };
        let lync = |text: &'static str| if self.lync { text } else { "" };
        let dialect = lync("dialect = \"lync\"\n");
        let scheme = lync("scheme = \"ntlm\"\n");
        let domain = lync("nt_domain = \"POOL\"\n");
        // The latency of a busy machine is not what is measured here, so its limits are wide.
        format!(
            "schema = 1\nname = \"bench\"\n{dialect}\
             [pool]\ntarget = {:?}\ntransport = \"{}\"\nconnections = \"{}\"\n{source}{tls}\
             [auth]\nreuse_nonce = {}\n\
             {scheme}[users]\ncount = {}\n{domain}pattern = \"sip:user{{n:06}}@pool.test\"\npassword_pattern = \"pw-user{{n:06}}\"\n\
             [workload]\nkind = \"{}\"\nself_subscribe = {}\nquantum = \"{}us\"\n\
             [warmup]\nsettle = \"0s\"\nregister_rate = \"{}/s\"\nsubscribe_rate = \"{}/s\"\n\
             [trust]\nprofile = \"ci\"\nsend_lag_p99 = \"1s\"\nsend_lag_seconds = \"100%\"\nloop_gap = \"5s\"\nshard_busy = \"100%\"\nsteal = \"100%\"\n\
             [[step]]\nname = \"all\"\nrate = \"{}/s\"\nhold = \"{}ns\"\n",
            self.target,
            self.transport,
            self.connections,
            self.reuse_nonce,
            self.users,
            self.kind,
            self.self_subscribe,
            self.quantum_us,
            self.log_on,
            self.log_on,
            self.rate,
            self.hold.as_nanos(),
        )
    }

    /// Writes `scenario.toml` into an empty `dir` and returns its path.
    pub fn write(&self, dir: &Path) -> Result<PathBuf> {
        if dir.exists() {
            std::fs::remove_dir_all(dir).named(dir.display())?;
        }
        std::fs::create_dir_all(dir).named(dir.display())?;
        let file = dir.join("scenario.toml");
        std::fs::write(&file, self.text()).named(file.display())?;
        Ok(file)
    }
}

impl Adsum {
    /// Builds the program unless one is named.
    pub fn build(options: &Build) -> Result<Adsum> {
        if let Some(program) = &options.adsum {
            let program = program.canonicalize().named(program.display())?;
            return Ok(Adsum { program, profile: "given".to_owned() });
        }
        let profile = if options.dist { "dist" } else { "release" };
        eprintln!("bench: cargo build --package adsum --profile {profile}");
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut command = Command::new(cargo);
        command.args(["build", "--package", "adsum", "--bin", "adsum", "--profile", profile]);
        command.args(["--message-format", "json-render-diagnostics"]).stderr(Stdio::inherit());
        let text = process::output("cargo build", &mut command)?;
        let program = text
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|message| message["target"]["name"] == "adsum")
            .find_map(|message| message["executable"].as_str().map(PathBuf::from))
            .ok_or_else(|| said("cargo build names no program adsum"))?;
        Ok(Adsum { program, profile: profile.to_owned() })
    }

    pub fn command(&self) -> Command {
        Command::new(&self.program)
    }

    /// A CA, and a certificate of localhost, in `dir`: `ca.pem`, `localhost.pem`, `localhost-key.pem`.
    pub fn certificates(&self, dir: &Path) -> Result<()> {
        let dir = dir.to_string_lossy();
        process::output("adsum certs init", self.command().args(["certs", "init", "--dir", &dir]))?;
        let names = ["coordinator", "localhost", "127.0.0.1"];
        process::output(
            "adsum certs issue",
            self.command().args(["certs", "issue", "--dir", &dir]).args(names),
        )?;
        Ok(())
    }

    /// The embedded pool in a process of its own.
    pub fn pool(&self, dir: &Path, users: u64, auth: Auth, tls: bool) -> Result<Pool> {
        std::fs::create_dir_all(dir).named(dir.display())?;
        let words = std::fs::File::create(dir.join("pool.txt")).named("pool.txt")?;
        process::raise_file_limit();
        let mut command = self.command();
        command.args(["pool", "--listen", "127.0.0.1:0", "--users", &users.to_string()]);
        match auth {
            Auth::Digest => {}
            Auth::Plain => drop(command.arg("--no-auth")),
            Auth::Ntlm => drop(command.args(["--dialect", "lync"])),
        }
        if tls {
            command.args(["--tls-listen", "127.0.0.1:0"]).arg("--tls-dir").arg(dir);
        }
        command.stdout(Stdio::piped()).stderr(words);
        let mut process = Process::start("adsum pool", &mut command)?;
        let stdout = process.child().stdout.take().ok_or_else(|| said("adsum pool has no output"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).named("adsum pool")?;
        let word = |name: &str| line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name));
        let address = word(if tls { "tls=" } else { "udp,tcp=" });
        let address = address.ok_or_else(|| said(format!("adsum pool said {line:?}")))?.to_owned();
        Ok(Pool { process, address, ca: tls.then(|| dir.join("ca.pem")) })
    }

    /// One run from start to end; the CPU time is that of the whole process.
    pub fn run(&self, dir: &Path, scenario: &Scenario) -> Result<Sample> {
        let file = scenario.write(dir)?;
        let mut command = self.command();
        self.arguments(&mut command, dir, &file)?;
        command.args(["--shards", &scenario.shards.to_string()]);
        let before = process::used_by_children()?;
        let limit = scenario.hold + Duration::from_secs(180);
        let status = Process::start("adsum run", &mut command)?.finish(limit)?;
        let used = process::used_by_children()?.since(before);
        let counters = Counters::read(&dir.join("results/counters.csv"))?;
        let mut sample = counters.sample(scenario.hold.as_secs_f64());
        (sample.cpu, sample.waits) = (used.cpu, used.waits);
        if !status.success() {
            sample.refused.push(format!(
                "adsum run ended with {}: see {}/words.txt",
                status.code().map_or_else(|| "a signal".to_owned(), |code| code.to_string()),
                dir.display()
            ));
        }
        Ok(sample)
    }

    /// `run` with its words in `words.txt` and its results in `results/`.
    pub fn arguments(&self, command: &mut Command, dir: &Path, scenario: &Path) -> Result<()> {
        let words = std::fs::File::create(dir.join("words.txt")).named("words.txt")?;
        command.arg("run").arg(scenario).args(["--plain", "--out"]).arg(dir.join("results"));
        command.stdout(words.try_clone().named("words.txt")?).stderr(words);
        Ok(())
    }

    pub fn version(&self) -> String {
        let version = process::output("adsum", self.command().arg("--version")).unwrap_or_default();
        format!("{} ({})", version.trim(), self.profile)
    }
}

/// The embedded pool; it ends with this value.
#[derive(Debug)]
pub struct Pool {
    process: Process,
    pub address: String,
    pub ca: Option<PathBuf>,
}

impl Pool {
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }
}

/// `counters.csv` of a run: phase, counter, value of the rows of all sites.
#[derive(Debug)]
pub struct Counters(Vec<(String, String, u64)>);

impl Counters {
    pub fn read(file: &Path) -> Result<Counters> {
        let text = std::fs::read(file).named(file.display())?;
        Counters::parse(&text).ok_or_else(|| said(format!("{} cannot be read", file.display())))
    }

    fn parse(text: &[u8]) -> Option<Counters> {
        let mut reader = csv::Reader::from_reader(text);
        let header = reader.headers().ok()?.clone();
        let at = |name: &str| header.iter().position(|column| column == name);
        let (phase, site, counter, value) = (at("phase")?, at("site")?, at("counter")?, at("value")?);
        let mut rows = Vec::new();
        for row in reader.records() {
            let row = row.ok()?;
            if &row[site] == "all" {
                rows.push((row[phase].to_owned(), row[counter].to_owned(), row[value].parse().ok()?));
            }
        }
        Some(Counters(rows))
    }

    /// The sum of a counter over the phases that are wanted.
    pub fn sum(&self, counter: &str, wanted: impl Fn(&str) -> bool) -> u64 {
        self.0
            .iter()
            .filter(|(phase, name, _)| name == counter && wanted(phase))
            .map(|(.., value)| value)
            .sum()
    }

    pub fn messages(&self, wanted: impl Fn(&str) -> bool + Copy) -> u64 {
        self.sum("sip_sent", wanted) + self.sum("sip_received", wanted)
    }

    fn sample(&self, seconds: f64) -> Sample {
        let load = |phase: &str| phase != "warmup";
        let again = self.sum("retransmit_sent", load) + self.sum("retransmit_received", load);
        let mut sample = Sample {
            shards_s: Some(self.sum("cpu_us", |_| true) as f64 / 1e6),
            pairs_wanted: self.sum("offered", load),
            pairs: self.sum("workflow_ok", load),
            messages: self.messages(load),
            messages_hold: self.messages(|phase| phase == "hold"),
            messages_ready: self.messages(|phase| phase == "warmup"),
            retransmissions: again,
            seconds,
            ..Sample::default()
        };
        let waited = self.sum("waited_pair", load);
        if waited > 0 {
            sample.refused.push(format!("{waited} arrivals waited for a free pair: give more --users"));
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_not_counted_as_load() {
        let text = b"schema_version,run_id,step,step_name,phase,site,counter,label,value\n\
            1,r,0,warmup,warmup,all,sip_sent,REGISTER,8\n\
            1,r,0,warmup,warmup,all,cpu_us,,1000\n\
            1,r,1,all,hold,all,sip_sent,REGISTER,40\n\
            1,r,1,all,hold,local,sip_sent,REGISTER,40\n\
            1,r,1,all,hold,all,sip_received,REGISTER 200,30\n\
            1,r,2,drain,drain,all,sip_received,\"REGISTER, late\",10\n\
            1,r,1,all,hold,all,offered,,5\n\
            1,r,1,all,hold,all,workflow_ok,,5\n\
            1,r,1,all,hold,all,cpu_us,,500000\n";
        let sample = Counters::parse(text).unwrap().sample(2.0);
        assert_eq!((sample.messages, sample.messages_hold, sample.messages_ready), (80, 70, 8));
        assert_eq!((sample.pairs, sample.shards_s), (5, Some(0.501)));
        assert!(sample.is_good());
    }

    #[test]
    fn arrivals_that_waited_spoil_a_repetition() {
        let text = b"phase,site,counter,value\nhold,all,waited_pair,3\n";
        assert!(!Counters::parse(text).unwrap().sample(1.0).is_good());
    }

    #[test]
    fn a_rate_and_a_number_of_pairs_make_a_hold() {
        let scenario = Scenario::like_sipp("127.0.0.1:5".into(), Transport::Tcp, Connections::Shared);
        let text = scenario.pairs(2_500, 1_000).text();
        for line in
            ["transport = \"tcp\"", "connections = \"shared\"", "reuse_nonce = false", "rate = \"1000/s\""]
        {
            assert!(text.lines().any(|l| l == line), "{line}");
        }
        assert!(text.contains("hold = \"2500000000ns\""));
    }
}
