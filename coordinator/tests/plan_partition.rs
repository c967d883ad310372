//! Every pair belongs to exactly one agent, evenly spread, and totals add up.

use std::collections::BTreeSet;

use adsum_coordinator::plan::{AgentPlace, AgentPlan, CHUNK_MAX, PlanError, RunFacts, plans, run_tag};
use adsum_coordinator::scenario::{Options, Scenario, read};
use adsum_coordinator::users::{Population, population};
use proptest::prelude::*;
use prost::Message as _;

const RUN_ID: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

fn scenario(extra: &str, users: &str) -> Scenario {
    let text = format!(
        "schema = 1\nname = \"plan\"\n{extra}\n[users]\n{users}\n[pool]\ntarget = \"127.0.0.1:5060\"\n\
         [[step]]\nname = \"a\"\nrate = \"100/s\"\nhold = \"10s\"\n"
    );
    let text =
        if text.contains("[workload]") { text } else { format!("{text}[workload]\nkind = \"held\"\n") };
    match read("plan.toml", &text, Options { sets: &[], env: &|_| None }) {
        Ok(document) => document.scenario,
        Err(problems) => panic!("{}", problems.lines()),
    }
}

fn pattern(count: u64) -> String {
    format!("count = {count}\npattern = \"sip:u{{n:06}}@pool.test\"\npassword_pattern = \"p{{n}}\"\n")
}

fn facts() -> RunFacts {
    RunFacts {
        run_id: RUN_ID.to_owned(),
        seed: 7,
        origin_unix_ns: 1_800_000_000_000_000_000,
        embedded: None,
        ca_pem: Vec::new(),
        cert_pem: Vec::new(),
        key_pem: Vec::new(),
    }
}

fn agents(sites: &[&str]) -> Vec<AgentPlace> {
    let place = |(index, site): (usize, &&str)| AgentPlace {
        name: format!("agent{index}"),
        site: (*site).to_owned(),
    };
    sites.iter().enumerate().map(place).collect()
}

fn plan(scenario: &Scenario, population: &Population, sites: &[&str]) -> Vec<AgentPlan> {
    plans(scenario, population, &facts(), &agents(sites)).unwrap()
}

/// The pairs that an agent's ranges name.
fn owned(plan: &AgentPlan) -> Vec<u64> {
    let users = plan.plan.users.as_ref().unwrap();
    let mut all: Vec<u64> = users
        .pairs
        .iter()
        .flat_map(|range| (0..range.count).map(|i| range.first + i * range.stride))
        .collect();
    all.sort_unstable();
    all
}

/// Every pair exactly once, all of them below the total.
fn assert_partition(plans: &[AgentPlan], total: u64) {
    let mut seen = BTreeSet::new();
    for plan in plans {
        assert_eq!(plan.plan.users.as_ref().unwrap().pairs_total, total);
        for pair in owned(plan) {
            assert!(pair < total, "pair {pair} of {total}");
            assert!(seen.insert(pair), "pair {pair} twice");
        }
    }
    assert_eq!(seen.len() as u64, total);
}

fn pattern_population(scenario: &Scenario) -> Population {
    population(&scenario.users, scenario.auth.scheme, b"", b"").unwrap()
}

#[test]
fn equal_shares_are_pair_p_to_agent_p_mod_n() {
    let scenario = scenario("", &pattern(20));
    let plans = plan(&scenario, &pattern_population(&scenario), &["local"; 3]);
    assert_eq!(owned(&plans[0]), [0, 3, 6, 9]);
    assert_eq!(owned(&plans[1]), [1, 4, 7]);
    assert_eq!(owned(&plans[2]), [2, 5, 8]);
    let range = &plans[1].plan.users.as_ref().unwrap().pairs[0];
    assert_eq!((range.first, range.stride, range.count), (1, 3, 3));
}

#[test]
fn a_sites_share_goes_to_its_agents_together() {
    let sites = "[sites.fra]\nshare = 0.75\n[sites.syd]\nshare = 0.25\ntarget = \"127.0.0.9:5070\"\n";
    let scenario = scenario(sites, &pattern(1_600));
    let plans = plan(&scenario, &pattern_population(&scenario), &["fra", "syd", "fra"]);
    assert_partition(&plans, 800);
    let counts: Vec<usize> = plans.iter().map(|plan| owned(plan).len()).collect();
    assert_eq!(counts, [300, 200, 300]);
    // The rarest agent is never left out for long: no clumps.
    let gaps = owned(&plans[1]).windows(2).map(|w| w[1] - w[0]).max();
    assert!(gaps <= Some(5), "{gaps:?}");
    assert_eq!(plans[1].plan.pool.as_ref().unwrap().target, "127.0.0.9:5070");
    assert_eq!(plans[0].plan.pool.as_ref().unwrap().target, "127.0.0.1:5060");
}

#[test]
fn totals_are_divided_exactly_and_never_to_nothing() {
    let extra = "[workload]\nkind = \"workflow\"\nmax_in_flight = 10\n[warmup]\nregister_rate = \"0.1/s\"\n\
                 [safety]\nmax_rate = \"1000/s\"\n";
    let scenario = scenario(extra, &pattern(2_000));
    let plans = plan(&scenario, &pattern_population(&scenario), &["local"; 7]);
    let sum = |of: fn(&AgentPlan) -> u64| plans.iter().map(of).sum::<u64>();
    assert_eq!(sum(|p| u64::from(p.plan.workload.as_ref().unwrap().max_in_flight)), 10);
    assert_eq!(sum(|p| p.plan.warmup.as_ref().unwrap().register_rate_mhz), 100);
    assert_eq!(sum(|p| p.plan.warmup.as_ref().unwrap().subscribe_rate_mhz), 500_000);
    assert_eq!(sum(|p| p.plan.safety.as_ref().unwrap().max_rate_mhz), 1_000_000);
    assert!(plans.iter().all(|p| p.plan.workload.as_ref().unwrap().max_in_flight >= 1));
    // 0 on the wire means no limit, so a part of 0 must be refused.
    let eleven = plan_error(&scenario, &["local"; 11]);
    assert!(matches!(
        eleven,
        PlanError::Indivisible { what: "workload.max_in_flight", total: 10, agents: 11 }
    ));
}

fn plan_error(scenario: &Scenario, sites: &[&str]) -> PlanError {
    plans(scenario, &pattern_population(scenario), &facts(), &agents(sites)).unwrap_err()
}

#[test]
fn agents_and_sites_must_fit() {
    let plain = scenario("", &pattern(4));
    assert_eq!(plan_error(&plain, &[]), PlanError::NoAgents);
    assert_eq!(plan_error(&plain, &["a", "b", "c"]), PlanError::TooManyAgents { agents: 3, pairs: 2 });
    let sites = scenario("[sites.fra]\n[sites.syd]\n", &pattern(40));
    assert_eq!(
        plan_error(&sites, &["fra", "muc"]).to_string(),
        "agent agent1 is at site muc, which the scenario does not have; accepted: fra, syd"
    );
    assert!(matches!(plan_error(&sites, &["fra"]), PlanError::EmptySite { site, .. } if site == "syd"));
    let mut wrong = facts();
    wrong.run_id = "not-a-ulid".to_owned();
    let error = plans(&plain, &pattern_population(&plain), &wrong, &agents(&["a"])).unwrap_err();
    assert_eq!(error, PlanError::RunId("not-a-ulid".to_owned()));
}

#[test]
fn the_run_tag_is_the_low_thirty_bits() {
    let id = ulid::Ulid::from_string(RUN_ID).unwrap();
    assert_eq!(u128::from(run_tag(RUN_ID).unwrap()), id.0 & ((1 << 30) - 1));
    assert_eq!(run_tag("7ZZZZZZZZZZZZZZZZZZZZZZZZZ").unwrap(), (1 << 30) - 1);
}

#[test]
fn the_embedded_pool_has_to_be_there() {
    let mut scenario = scenario("", &pattern(4));
    scenario.pool.target = adsum_coordinator::scenario::Target::Embedded;
    assert_eq!(plan_error(&scenario, &["a"]), PlanError::NoEmbeddedPool);
    let mut facts = facts();
    facts.embedded = Some("127.0.0.1:40000".to_owned());
    let plans = plans(&scenario, &pattern_population(&scenario), &facts, &agents(&["a"])).unwrap();
    assert_eq!(plans[0].plan.pool.as_ref().unwrap().target, "127.0.0.1:40000");
}

fn csv(sites: &[&str]) -> String {
    let mut text = "sip_uri,auth_user,password,site\n".to_owned();
    for (pair, site) in sites.iter().enumerate() {
        for user in ["p", "s"] {
            text.push_str(&format!("sip:{user}{pair}@pool.test,{user}{pair},secret{pair},{site}\n"));
        }
    }
    text
}

fn rows(csv: &str) -> (Scenario, Population) {
    let scenario = scenario("", "from = \"accounts.csv\"\n");
    let population = population(&scenario.users, scenario.auth.scheme, csv.as_bytes(), b"").unwrap();
    (scenario, population)
}

#[test]
fn rows_travel_in_bounded_chunks_with_their_numbers() {
    let (scenario, population) = rows(&csv(&vec![""; 30_000]));
    let plans = plan(&scenario, &population, &["a", "b"]);
    assert_partition(&plans, 30_000);
    for plan in &plans {
        assert!(plan.chunks.len() > 1);
        assert_eq!(plan.plan.user_chunks as usize, plan.chunks.len());
        assert!(plan.chunks.iter().all(|chunk| chunk.encoded_len() <= CHUNK_MAX));
        let numbers: Vec<u32> = plan.chunks.iter().map(|chunk| chunk.number).collect();
        assert_eq!(numbers, (0..plan.chunks.len() as u32).collect::<Vec<_>>());
        let sent: Vec<u64> =
            plan.chunks.iter().flat_map(|chunk| &chunk.pairs).map(|pair| pair.pair).collect();
        assert_eq!(sent, owned(plan));
        for pair in plan.chunks.iter().flat_map(|chunk| &chunk.pairs) {
            // Without sites the row of a pair is its number.
            assert_eq!(pair.publisher.as_ref().unwrap().sip_uri, format!("sip:p{}@pool.test", pair.pair));
            assert_eq!(pair.subscriber.as_ref().unwrap().row as u64, pair.pair * 2 + 3);
        }
    }
    assert!(!format!("{plans:?}").contains("secret"));
}

#[test]
fn a_site_in_the_file_pins_its_pairs() {
    // First all of one site, then all of the other: numbered one after the other they would clump.
    let sites: Vec<&str> = [vec!["fra"; 60], vec!["syd"; 30], vec![""; 9]].concat();
    let (scenario, population) = rows(&csv(&sites));
    let plans = plan(&scenario, &population, &["syd", "fra", "fra"]);
    assert_partition(&plans, 99);
    for (plan, site) in plans.iter().zip(["syd", "fra", "fra"]) {
        let mut at_site = 0;
        for pair in plan.chunks.iter().flat_map(|chunk| &chunk.pairs) {
            let row = (pair.publisher.as_ref().unwrap().row as usize - 2) / 2;
            assert!(sites[row] == site || sites[row].is_empty(), "row {row} at {site}");
            at_site += usize::from(sites[row] == site);
        }
        assert_eq!(at_site, 30);
        let numbers = owned(plan);
        let widest = numbers.windows(2).map(|w| w[1] - w[0]).max().unwrap();
        assert!(widest <= 6, "a third of the pairs lies {widest} apart");
    }
    let error = plans_error_rows(&scenario, &population, &["fra"]);
    assert!(
        error.to_string().contains("no agent is at site syd, which line 122 of the users' file has"),
        "{error}"
    );
}

fn plans_error_rows(scenario: &Scenario, population: &Population, sites: &[&str]) -> PlanError {
    plans(scenario, population, &facts(), &agents(sites)).unwrap_err()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_shares_partition_the_pairs(
        shares in prop::collection::vec(1u32..2_000, 1..6),
        agents_at in prop::collection::vec(1usize..4, 6),
        pairs in 200u64..3_000,
    ) {
        let mut extra = String::new();
        let mut sites = Vec::new();
        for (index, share) in shares.iter().enumerate() {
            extra.push_str(&format!("[sites.s{index}]\nshare = {}.{:03}\n", share / 1_000, share % 1_000));
            sites.extend(std::iter::repeat_n(format!("s{index}"), agents_at[index]));
        }
        let sites: Vec<&str> = sites.iter().map(String::as_str).collect();
        let scenario = scenario(&extra, &pattern(pairs * 2));
        match plans(&scenario, &pattern_population(&scenario), &facts(), &agents(&sites)) {
            Ok(plans) => {
                assert_partition(&plans, pairs);
                let rates: u64 = plans.iter().map(|p| p.plan.warmup.as_ref().unwrap().register_rate_mhz).sum();
                prop_assert_eq!(rates, scenario.warmup.register_rate_mhz);
            }
            // With shares of 1 : 2000 somebody may own nothing, which is said and not done.
            Err(PlanError::TooManyAgents { .. }) => {}
            Err(error) => prop_assert!(false, "{}", error),
        }
    }

    #[test]
    fn any_sites_in_the_file_partition_the_pairs(
        which in prop::collection::vec(0usize..4, 3..300),
        agents_at in prop::collection::vec(1usize..3, 3),
    ) {
        let names = ["a", "b", "c", ""];
        let mut which = which;
        // Everybody owns something.
        which.extend([0, 0, 1, 1, 2, 2]);
        let rows_at: Vec<&str> = which.iter().map(|site| names[*site]).collect();
        let (scenario, population) = rows(&csv(&rows_at));
        let sites: Vec<&str> =
            (0..3).flat_map(|site| std::iter::repeat_n(names[site], agents_at[site])).collect();
        let plans = plan(&scenario, &population, &sites);
        assert_partition(&plans, rows_at.len() as u64);
        let mut lines = BTreeSet::new();
        for (plan, site) in plans.iter().zip(&sites) {
            for pair in plan.chunks.iter().flat_map(|chunk| &chunk.pairs) {
                let line = pair.publisher.as_ref().unwrap().row as usize;
                prop_assert!(lines.insert(line));
                let at = rows_at[(line - 2) / 2];
                prop_assert!(at.is_empty() || at == *site);
            }
        }
        prop_assert_eq!(lines.len(), rows_at.len());
    }
}
