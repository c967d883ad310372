//! Who owns which pair.

use std::collections::BTreeMap;

use adsum_proto::v1::PairRange;

use super::{AgentPlace, PlanError};
use crate::scenario::Scenario;
use crate::users::{Population, RowPair, Who};

/// Turns after which shares repeat; finer shares are rounded to this many.
const PERIOD_MAX: u64 = 4_096;

/// Pairs dealt out to agents.
#[derive(Debug, Clone)]
pub struct Dealt {
    counts: Vec<u64>,
    how: How,
}

#[derive(Debug, Clone)]
enum How {
    /// Pair p belongs to `turns[p mod turns.len()]`; row p is pair p.
    Turns { turns: Vec<usize>, total: u64 },
    /// Each agent's pairs with their rows, both rising.
    Listed(Vec<Vec<(u64, u64)>>),
}

impl Dealt {
    /// How many pairs each agent owns.
    #[must_use]
    pub fn counts(&self) -> &[u64] {
        &self.counts
    }

    /// An agent's pairs: the number in the schedule, and the row of the users' file (from 0).
    pub fn pairs(&self, agent: usize) -> Box<dyn Iterator<Item = (u64, u64)> + '_> {
        match &self.how {
            How::Turns { turns, total } => {
                let period = turns.len() as u64;
                let mine =
                    (0..*total).filter(move |pair| turns.get((pair % period) as usize) == Some(&agent));
                Box::new(mine.map(|pair| (pair, pair)))
            }
            How::Listed(lists) => Box::new(lists.get(agent).into_iter().flatten().copied()),
        }
    }

    /// An agent's pairs as strided ranges.
    #[must_use]
    pub fn ranges(&self, agent: usize) -> Vec<PairRange> {
        match &self.how {
            How::Turns { turns, total } => {
                let stride = turns.len() as u64;
                let mine = (0..stride).zip(turns).filter(|(first, owner)| **owner == agent && first < total);
                mine.map(|(first, _)| PairRange { first, stride, count: (total - first).div_ceil(stride) })
                    .collect()
            }
            How::Listed(lists) => compress(lists.get(agent).map_or(&[], Vec::as_slice)),
        }
    }
}

/// Deals the pairs of a population out to agents.
///
/// A site's share goes to its agents in equal parts; rows with a site go to
/// agents of that site, whatever the shares say.
///
/// # Errors
/// [`PlanError`] if agents and sites do not fit each other, or an agent would own nothing.
pub fn deal(scenario: &Scenario, population: &Population, agents: &[AgentPlace]) -> Result<Dealt, PlanError> {
    if agents.is_empty() {
        return Err(PlanError::NoAgents);
    }
    if agents.len() as u64 > population.pairs {
        return Err(PlanError::TooManyAgents { agents: agents.len(), pairs: population.pairs });
    }
    let turns = turns(&weights(scenario, agents)?);
    let dealt = match &population.who {
        Who::Rows(rows) if rows.iter().any(|row| row.site.is_some()) => pinned(rows, &turns, agents)?,
        _ => in_turns(turns, population.pairs, agents.len()),
    };
    // With very unequal shares of few pairs somebody may be left with nothing.
    if dealt.counts.contains(&0) {
        return Err(PlanError::TooManyAgents { agents: agents.len(), pairs: population.pairs });
    }
    Ok(dealt)
}

fn in_turns(turns: Vec<usize>, total: u64, agents: usize) -> Dealt {
    let period = turns.len() as u64;
    let mut counts = vec![0; agents];
    for (first, owner) in (0..period.min(total)).zip(&turns) {
        counts[*owner] += (total - first).div_ceil(period);
    }
    Dealt { counts, how: How::Turns { turns, total } }
}

/// The weight of each agent: its site's share over the agents there.
fn weights(scenario: &Scenario, agents: &[AgentPlace]) -> Result<Vec<u64>, PlanError> {
    if scenario.sites.is_empty() {
        return Ok(vec![1; agents.len()]);
    }
    let mut at_site: BTreeMap<&str, u128> = BTreeMap::new();
    for agent in agents {
        if !scenario.sites.contains_key(&agent.site) {
            let accepted: Vec<&str> = scenario.sites.keys().map(String::as_str).collect();
            let (name, site) = (agent.name.clone(), agent.site.clone());
            return Err(PlanError::UnknownSite { agent: name, site, accepted: accepted.join(", ") });
        }
        *at_site.entry(&agent.site).or_default() += 1;
    }
    if let Some(site) = scenario.sites.keys().find(|site| !at_site.contains_key(site.as_str())) {
        let why = "which the scenario has".to_owned();
        return Err(PlanError::EmptySite { site: site.clone(), why });
    }
    // Over a common denominator, so that a site's agents have exactly its share together.
    let common = at_site.values().fold(1u128, |common, count| common / gcd(common, *count) * count);
    let weights: Vec<u128> = agents
        .iter()
        .map(|agent| {
            let share = scenario.sites.get(&agent.site).and_then(|site| site.share).unwrap_or(1_000);
            let count = at_site.get(agent.site.as_str()).copied().unwrap_or(1);
            u128::from(share) * (common / count)
        })
        .collect();
    Ok(reduced(&weights))
}

/// The same proportions in small numbers that add up to at most [`PERIOD_MAX`].
fn reduced(weights: &[u128]) -> Vec<u64> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, *weight)).max(1);
    let sum: u128 = weights.iter().map(|weight| weight / divisor).sum();
    if sum <= u128::from(PERIOD_MAX) {
        return weights.iter().map(|weight| u64::try_from(weight / divisor).unwrap_or(PERIOD_MAX)).collect();
    }
    // Nobody's share is rounded to nothing: with more agents than turns, turns grow.
    let turns = PERIOD_MAX.max(weights.len() as u64);
    let scale = weights.iter().max().copied().unwrap_or(1).div_ceil(u128::from(u32::MAX)).max(1);
    let small: Vec<u64> =
        weights.iter().map(|weight| u64::try_from(weight / scale).unwrap_or(u64::MAX).max(1)).collect();
    divide(turns, &small).unwrap_or(small)
}

fn gcd(a: u128, b: u128) -> u128 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Smooth weighted round robin: each agent as often as its weight, as evenly as can be.
fn turns(weights: &[u64]) -> Vec<usize> {
    let divisor = weights.iter().fold(0u128, |divisor, weight| gcd(divisor, u128::from(*weight))).max(1);
    let weights: Vec<i128> = weights.iter().map(|weight| (u128::from(*weight) / divisor) as i128).collect();
    let sum: i128 = weights.iter().sum();
    let mut credit = vec![0i128; weights.len()];
    let mut turns = Vec::new();
    for _ in 0..sum {
        for (credit, weight) in credit.iter_mut().zip(&weights) {
            *credit += weight;
        }
        // The first of equals, so that equal shares are pair p to agent p mod N.
        let richest = (0..credit.len()).rev().max_by_key(|agent| credit[*agent]).unwrap_or(0);
        if let Some(credit) = credit.get_mut(richest) {
            *credit -= sum;
        }
        turns.push(richest);
    }
    turns
}

/// Rows with a site go to its agents in turn, the others by the shares; then
/// pairs are numbered so that every agent's lie evenly among all.
fn pinned(rows: &[RowPair], turns: &[usize], agents: &[AgentPlace]) -> Result<Dealt, PlanError> {
    let mut at_site: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (index, agent) in agents.iter().enumerate() {
        at_site.entry(&agent.site).or_default().push(index);
    }
    let mut next: BTreeMap<&str, usize> = BTreeMap::new();
    let mut free_turn = 0;
    let mut owned: Vec<Vec<u64>> = vec![Vec::new(); agents.len()];
    for (row, pair) in (0u64..).zip(rows) {
        let owner = match &pair.site {
            None => {
                free_turn += 1;
                turns[(free_turn - 1) % turns.len()]
            }
            Some(site) => {
                let Some(here) = at_site.get(site.as_str()) else {
                    let why = format!("which line {} of the users' file has", pair.publisher.line);
                    return Err(PlanError::EmptySite { site: site.clone(), why });
                };
                let turn = next.entry(site).or_default();
                *turn += 1;
                here[(*turn - 1) % here.len()]
            }
        };
        owned[owner].push(row);
    }
    Ok(Dealt {
        counts: owned.iter().map(|rows| rows.len() as u64).collect(),
        how: How::Listed(spread(&owned)),
    })
}

/// Numbers every agent's rows so that the j-th of c lies at (j + ½) / c of the whole.
fn spread(owned: &[Vec<u64>]) -> Vec<Vec<(u64, u64)>> {
    let mut order: Vec<(u128, usize, u64)> = Vec::new();
    for (agent, rows) in owned.iter().enumerate() {
        let count = rows.len() as u128;
        let places = (0u128..).zip(rows).map(|(j, row)| (((2 * j + 1) << 64) / (2 * count), agent, *row));
        order.extend(places);
    }
    order.sort_unstable();
    let mut lists = vec![Vec::new(); owned.len()];
    for (number, (_, agent, row)) in (0u64..).zip(order) {
        lists[agent].push((number, row));
    }
    lists
}

/// Rising numbers as strided ranges.
fn compress(pairs: &[(u64, u64)]) -> Vec<PairRange> {
    let mut ranges: Vec<PairRange> = Vec::new();
    for (pair, _) in pairs {
        if let Some(last) = ranges.last_mut() {
            let end = last.first + last.stride * (last.count - 1);
            if last.count == 1 {
                (last.stride, last.count) = (pair - end, 2);
                continue;
            }
            if end + last.stride == *pair {
                last.count += 1;
                continue;
            }
        }
        ranges.push(PairRange { first: *pair, stride: 1, count: 1 });
    }
    ranges
}

/// A total in whole parts by weight, at least 1 each, exactly the total together.
/// `None` if there are more weights than the total has units.
#[must_use]
pub fn divide(total: u64, weights: &[u64]) -> Option<Vec<u64>> {
    let count = weights.len() as u64;
    if count == 0 || total < count {
        return None;
    }
    // Everybody gets one; the rest goes by weight, largest remainders first.
    let rest = u128::from(total - count);
    let sum: u128 = weights.iter().map(|weight| u128::from(*weight)).sum::<u128>().max(1);
    let mut parts: Vec<u64> = Vec::with_capacity(weights.len());
    let mut remainders: Vec<(u128, usize)> = Vec::with_capacity(weights.len());
    for (index, weight) in weights.iter().enumerate() {
        let exact = rest * u128::from(*weight);
        parts.push(1 + u64::try_from(exact / sum).unwrap_or(u64::MAX));
        remainders.push((exact % sum, index));
    }
    remainders.sort_by_key(|(remainder, index)| (std::cmp::Reverse(*remainder), *index));
    let mut left = total.saturating_sub(parts.iter().sum());
    for (_, index) in remainders.iter().cycle() {
        if left == 0 {
            break;
        }
        parts[*index] += 1;
        left -= 1;
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_weights_take_turns_in_order() {
        assert_eq!(turns(&[1, 1, 1]), [0, 1, 2]);
        assert_eq!(turns(&[5, 5]), [0, 1]);
    }

    #[test]
    fn unequal_weights_do_not_clump() {
        let turns = turns(&[5, 1, 1]);
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn totals_are_divided_exactly() {
        assert_eq!(divide(10, &[1, 1, 1]), Some(vec![4, 3, 3]));
        assert_eq!(divide(3, &[100, 1, 1]), Some(vec![1, 1, 1]));
        assert_eq!(divide(2, &[1, 1, 1]), None);
        assert_eq!(divide(7, &[]), None);
        assert_eq!(divide(u64::MAX, &[1, 1]).map(|parts| parts.iter().sum::<u64>()), Some(u64::MAX));
    }

    #[test]
    fn fine_shares_keep_every_agent() {
        let weights = reduced(&[1_000_000_007, 1, 999]);
        assert_eq!(weights.iter().sum::<u64>(), PERIOD_MAX);
        assert!(weights.iter().all(|weight| *weight >= 1), "{weights:?}");
    }

    #[test]
    fn numbers_become_ranges_and_back() {
        let pairs: Vec<(u64, u64)> = [0, 2, 4, 5, 9, 13, 14].map(|pair| (pair, 0)).to_vec();
        let mut back: Vec<u64> = Vec::new();
        for range in compress(&pairs) {
            back.extend((0..range.count).map(|i| range.first + i * range.stride));
        }
        assert_eq!(back, [0, 2, 4, 5, 9, 13, 14]);
    }
}
