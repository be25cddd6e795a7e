//! Which nodes hold which vnodes: a plan that moves as little as it can. Layer: pure.
//!
//! Whoever changes the membership plans, and what was planned is committed: replicas of two releases never have to plan alike.

use std::collections::{BTreeMap, BTreeSet};

use crate::ids::{NodeId, VnodeId};

/// The nodes that hold each vnode's records, the one that it is at home on first.
pub type Replicas = BTreeMap<VnodeId, Vec<NodeId>>;

/// Meta has at most so many voters; everybody else hears what they decide.
const META_VOTERS: usize = 5;

/// Spreads vnodes over `members`, beginning with where they are: as many replicas of each as are wanted and as there are nodes, homes
/// and replicas shared evenly.
pub fn plan(current: &Replicas, members: &BTreeSet<NodeId>, replicas: usize) -> Replicas {
    let mut plan: Replicas = current.clone();
    if members.is_empty() {
        return plan;
    }
    let count = replicas.clamp(1, members.len());
    for held in plan.values_mut() {
        held.retain(|node| members.contains(node));
        held.truncate(count);
    }
    fill(&mut plan, members, count);
    share_homes(&mut plan, members);
    share_replicas(&mut plan, members);
    plan
}

/// The voters of meta: those that vote already and stay, and others until there are enough.
pub fn meta_voters(voters: &BTreeSet<NodeId>, members: &BTreeSet<NodeId>) -> BTreeSet<NodeId> {
    let stay = voters.intersection(members);
    stay.chain(members.difference(voters)).take(META_VOTERS).copied().collect()
}

fn fill(plan: &mut Replicas, members: &BTreeSet<NodeId>, count: usize) {
    let vnodes: Vec<VnodeId> = plan.keys().copied().collect();
    for vnode in vnodes {
        while let Some(node) = {
            let held = &plan[&vnode];
            (held.len() < count)
                .then(|| least(members.iter().filter(|node| !held.contains(node)), |node| load(plan, node)))
                .flatten()
        } {
            if let Some(held) = plan.get_mut(&vnode) {
                held.push(node);
            }
        }
    }
}

fn share_homes(plan: &mut Replicas, members: &BTreeSet<NodeId>) {
    loop {
        let homes = |node: &NodeId| plan.values().filter(|held| held.first() == Some(node)).count();
        let (Some(most), Some(least)) = (most(members.iter(), homes), least(members.iter(), homes)) else { return };
        if homes(&most) <= homes(&least) + 1 {
            return;
        }
        // Best one whose records are there already.
        let of_most = || plan.iter().filter(|(_, held)| held.first() == Some(&most));
        let held_there = of_most().find(|(_, held)| held.contains(&least)).or_else(|| of_most().next());
        let Some(vnode) = held_there.map(|(vnode, _)| *vnode) else { return };
        let loads: BTreeMap<NodeId, usize> = members.iter().map(|node| (*node, load(plan, node))).collect();
        let Some(held) = plan.get_mut(&vnode) else { return };
        let count = held.len();
        held.retain(|node| *node != least);
        if held.len() == count
            && let Some(heaviest) = self::most(held.iter(), |node| loads.get(node).copied().unwrap_or(0))
        {
            held.retain(|node| *node != heaviest);
        }
        held.insert(0, least);
    }
}

fn share_replicas(plan: &mut Replicas, members: &BTreeSet<NodeId>) {
    loop {
        let loads: BTreeMap<NodeId, usize> = members.iter().map(|node| (*node, load(plan, node))).collect();
        // Whoever of those that share a vnode has most gives it to whoever has least: the widest difference first.
        let mut widest: Option<(usize, VnodeId, NodeId, NodeId)> = None;
        for (vnode, held) in plan.iter() {
            let (Some(giver), Some(taker)) = (
                most(held.iter().skip(1), |node| loads[node]),
                least(members.iter().filter(|node| !held.contains(node)), |node| loads[node]),
            ) else {
                continue;
            };
            let difference = loads[&giver].saturating_sub(loads[&taker]);
            if difference > 1 && widest.is_none_or(|(widest, ..)| difference > widest) {
                widest = Some((difference, *vnode, giver, taker));
            }
        }
        let gifts = match widest {
            Some((_, vnode, giver, taker)) => vec![(vnode, giver, taker)],
            // The heaviest may have nothing that the lightest lacks: then another stands between them.
            None => chain(plan, members, &loads),
        };
        if gifts.is_empty() {
            return;
        }
        for (vnode, giver, taker) in gifts {
            if let Some(place) = plan.get_mut(&vnode).and_then(|held| held.iter_mut().find(|node| **node == giver)) {
                *place = taker;
            }
        }
    }
}

/// The shortest row of gifts by which a node with much gives to one with little, each between them taking as much as it gives; none if all have as much
/// as they can.
fn chain(plan: &Replicas, members: &BTreeSet<NodeId>, loads: &BTreeMap<NodeId, usize>) -> Vec<(VnodeId, NodeId, NodeId)> {
    let mut givers: Vec<NodeId> = members.iter().copied().collect();
    givers.sort_by_key(|node| std::cmp::Reverse(loads[node]));
    for first in givers {
        // From whom each was reached, and with what.
        let mut reached: BTreeMap<NodeId, (VnodeId, NodeId)> = BTreeMap::new();
        let mut queue = std::collections::VecDeque::from([first]);
        while let Some(giver) = queue.pop_front() {
            for (vnode, held) in plan.iter().filter(|(_, held)| held.iter().skip(1).any(|node| *node == giver)) {
                for taker in members.iter().filter(|node| !held.contains(node)) {
                    if *taker == first || reached.contains_key(taker) {
                        continue;
                    }
                    reached.insert(*taker, (*vnode, giver));
                    queue.push_back(*taker);
                    if loads[taker] + 1 < loads[&first] {
                        let mut gifts = Vec::new();
                        let mut at = *taker;
                        while let Some((vnode, giver)) = reached.get(&at) {
                            gifts.push((*vnode, *giver, at));
                            at = *giver;
                        }
                        return gifts;
                    }
                }
            }
        }
    }
    Vec::new()
}

fn load(plan: &Replicas, node: &NodeId) -> usize {
    plan.values().filter(|held| held.contains(node)).count()
}

fn least<'a>(nodes: impl Iterator<Item = &'a NodeId>, weight: impl Fn(&NodeId) -> usize) -> Option<NodeId> {
    nodes.min_by_key(|node| weight(node)).copied()
}

fn most<'a>(nodes: impl Iterator<Item = &'a NodeId>, weight: impl Fn(&NodeId) -> usize) -> Option<NodeId> {
    nodes.max_by_key(|node| weight(node)).copied()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nodes(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
        ids.into_iter().map(NodeId).collect()
    }

    fn at_homes(vnodes: u16, founders: u64) -> Replicas {
        (1..=vnodes).map(|vnode| (VnodeId(vnode), vec![NodeId(u64::from(vnode - 1) % founders + 1)])).collect()
    }

    fn moved(before: &Replicas, after: &Replicas) -> usize {
        after.iter().map(|(vnode, held)| held.iter().filter(|node| !before[vnode].contains(node)).count()).sum()
    }

    #[test]
    fn three_nodes_hold_everything_and_keep_their_homes() {
        let homes = at_homes(6, 3);
        let plan = plan(&homes, &nodes(1..=3), 3);
        for (vnode, held) in &plan {
            assert_eq!((held.len(), held[0]), (3, homes[vnode][0]));
        }
    }

    #[test]
    fn a_fourth_node_gets_its_share_and_nothing_else_moves() {
        let before = plan(&at_homes(8, 3), &nodes(1..=3), 3);
        let after = plan(&before, &nodes(1..=4), 3);
        assert_eq!(load(&after, &NodeId(4)), 6);
        assert_eq!(moved(&before, &after), 6);
        assert_eq!(after.values().filter(|held| held[0] == NodeId(4)).count(), 2);
    }

    #[test]
    fn a_dead_nodes_successor_takes_what_it_had() {
        let before = plan(&at_homes(6, 3), &nodes(1..=3), 3);
        let after = plan(&before, &nodes([1, 2, 7]), 3);
        assert_eq!(moved(&before, &after), 6);
        assert_eq!(load(&after, &NodeId(7)), 6);
    }

    #[test]
    fn meta_keeps_the_voters_it_has() {
        assert_eq!(meta_voters(&nodes([1, 2, 3]), &nodes([1, 2, 4, 5])), nodes([1, 2, 4, 5]));
        assert_eq!(meta_voters(&nodes([3, 4, 5, 6, 7]), &nodes(1..=7)), nodes(3..=7));
    }

    proptest! {
        /// Nodes come and go: always enough replicas, each at another node, shares even, and at rest when nothing changes.
        #[test]
        fn every_plan_is_even_and_at_rest(
            vnodes in 1_u16..20,
            founders in 1_u64..5,
            replicas in 1_usize..=5,
            steps in proptest::collection::vec(proptest::collection::btree_set(1_u64..9, 1..9), 1..6),
        ) {
            let mut held = plan(&at_homes(vnodes, founders), &nodes(1..=founders), replicas);
            for members in steps {
                let members = nodes(members);
                held = plan(&held, &members, replicas);
                let count = replicas.min(members.len());
                for nodes in held.values() {
                    prop_assert_eq!(nodes.len(), count);
                    prop_assert_eq!(nodes.iter().collect::<BTreeSet<_>>().len(), count);
                    prop_assert!(nodes.iter().all(|node| members.contains(node)));
                }
                let homes = members.iter().map(|node| held.values().filter(|nodes| nodes[0] == *node).count());
                prop_assert!(homes.clone().max().unwrap() - homes.min().unwrap() <= 1);
                let loads = members.iter().map(|node| load(&held, node));
                prop_assert!(loads.clone().max().unwrap() - loads.min().unwrap() <= 1, "{held:?}");
                prop_assert_eq!(&plan(&held, &members, replicas), &held);
            }
        }
    }
}
