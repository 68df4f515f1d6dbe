//! What is new, as the planner's events.

use std::collections::HashMap;
use std::sync::Arc;

use ebbtide_planner::state::event::Event;
use ebbtide_planner::state::node::{Node, PowerState};
use ebbtide_planner::state::workload::Workload;
use ebbtide_proto::{NodeId, WorkloadId};

use super::groups::{self, Siblings};
use super::{Inventory, Key, Known, Told, digest};
use crate::convert::node::ClusterNode;
use crate::convert::place::{self, Affinity};
use crate::convert::pod::{Owner, Phase, Template};
use crate::names;

/// Affinities that are told apart; pods with more of them stay.
const AFFINITIES: usize = 512;

impl Inventory {
    /// Everything that is new since the last time. `complete`: every kind of object was listed. `fresh`: the watches
    /// run; without that nobody is heard. `base` has what Kubernetes doesn't know of a node.
    pub fn events(&mut self, complete: bool, fresh: bool, base: &dyn Fn(&ClusterNode) -> Node) -> Vec<Event> {
        let mut events = Vec::new();
        if !complete && !self.synced {
            // half of a cluster looks like one with much room
            return events;
        }
        let templates = self.in_use();
        let siblings = self.siblings(&templates);
        let mut workloads = Vec::new();
        self.pods_news(&templates, &siblings, &mut workloads);
        // after the pods: these may have asked for a label that is new
        self.nodes_news(fresh, base, &mut events);
        events.append(&mut workloads);
        self.groups_news(&templates, &mut events);
        let gone: Vec<NodeId> = self.told_nodes.keys().filter(|id| !self.nodes.contains_key(*id)).cloned().collect();
        for node in gone {
            self.told_nodes.remove(&node);
            events.push(Event::NodeGone { node });
        }
        if !self.synced {
            self.synced = true;
            events.push(Event::Synced);
        }
        events
    }

    fn nodes_news(&mut self, fresh: bool, base: &dyn Fn(&ClusterNode) -> Node, events: &mut Vec<Event>) {
        for (id, node) in &self.nodes {
            let mut planned = node.planned(base(node));
            for (affinity, label) in &self.fits {
                if place::allows(affinity, id.as_str(), &node.labels) {
                    planned.labels.insert(label.clone(), "true".to_owned());
                }
            }
            let power = planned.power;
            let told = self.told_nodes.get(id);
            let known_power = told.map(|t| t.power);
            let described = |n: &Node| Node { power: PowerState::Unknown, ..n.clone() };
            if told.map(described).as_ref() != Some(&described(&planned)) {
                self.told_nodes.insert(id.clone(), planned.clone());
                // that it was switched is told by itself, which the planner counts
                let before = known_power.unwrap_or(power);
                events.push(Event::NodeSeen(Box::new(Node { power: before, ..planned })));
                if before != power {
                    events.push(Event::NodePower { node: id.clone(), power });
                }
            } else if known_power != Some(power) {
                self.told_nodes.insert(id.clone(), planned);
                events.push(Event::NodePower { node: id.clone(), power });
            }
            if fresh && node.ready.is_some() {
                events.push(Event::NodeHeard { node: id.clone() });
            }
        }
    }

    fn groups_news(&mut self, templates: &[(u64, Arc<Template>)], events: &mut Vec<Event>) {
        let away = self.away(templates);
        for (group, n) in &away {
            if self.told_groups.get(group) != Some(n) {
                events.push(Event::Budget { group: group.clone(), away: *n });
            }
        }
        for group in self.told_groups.keys().filter(|g| !away.contains_key(*g)) {
            // what the planner takes for granted where nobody says anything
            events.push(Event::Budget { group: group.clone(), away: 1 });
        }
        self.told_groups = away;
    }

    fn pods_news(
        &mut self,
        templates: &[(u64, Arc<Template>)],
        siblings: &HashMap<u64, Siblings>,
        events: &mut Vec<Event>,
    ) {
        if self.all_changed {
            // affinities that nobody has any more go with this
            self.fits.clear();
        }
        let now: HashMap<u64, u64> = siblings.iter().map(|(at, s)| (*at, digest(s))).collect();
        let at: HashMap<*const Template, u64> = templates.iter().map(|(at, t)| (Arc::as_ptr(t), *at)).collect();
        let news = |known: &Known| {
            let of = at.get(&Arc::as_ptr(&known.template));
            of.is_none_or(|of| self.told_templates.get(of) != now.get(of))
        };
        let mut due: Vec<Key> = match self.all_changed {
            true => {
                self.pods.keys().chain(self.changed.iter().filter(|k| !self.pods.contains_key(*k))).cloned().collect()
            }
            false => {
                let others = self.pods.iter().filter(|(k, known)| !self.changed.contains(*k) && news(known));
                self.changed.iter().cloned().chain(others.map(|(k, _)| k.clone())).collect()
            }
        };
        // in an order that doesn't depend on the map's
        due.sort();
        let gone: Vec<WorkloadId> = self.told.keys().filter(|id| !self.by_id.contains_key(*id)).cloned().collect();
        for key in due {
            let Some(known) = self.pods.get(&key) else { continue };
            let (id, template) = (known.pod.id.clone(), Arc::clone(&known.template));
            let of = at.get(&Arc::as_ptr(&template)).and_then(|at| siblings.get(at));
            let (Some(of), phase, claims) = (of, known.pod.phase.clone(), known.pod.claims.clone()) else { continue };
            let affinity = self.affinity(&key, &template, &claims, phase == Phase::Unschedulable);
            let workload = self.workload(id.clone(), &phase, &template, of, affinity);
            self.tell(id, workload, events);
        }
        for id in gone {
            if self.told.remove(&id).is_some() {
                events.push(Event::WorkloadGone { workload: id });
            }
        }
        self.told_templates = now;
        self.changed.clear();
        self.all_changed = false;
    }

    fn tell(&mut self, id: WorkloadId, workload: Option<Workload>, events: &mut Vec<Event>) {
        let Some(mut workload) = workload else {
            if self.told.remove(&id).is_some() {
                events.push(Event::WorkloadGone { workload: id });
            }
            return;
        };
        let node = workload.node.take();
        let now = digest(&workload);
        let told = self.told.insert(id.clone(), Told { digest: now, node: node.clone() });
        match told {
            Some(told) => {
                if told.digest != now {
                    // where it was is what the planner knows: it has to see that it moved
                    workload.node.clone_from(&told.node);
                    events.push(Event::WorkloadSeen(Box::new(workload)));
                }
                if told.node != node {
                    events.push(Event::WorkloadBound { workload: id, node });
                }
            }
            None => {
                workload.node = node;
                events.push(Event::WorkloadSeen(Box::new(workload)));
            }
        }
    }

    /// Which nodes a pod's own wishes and its volumes allow; or why it can't be moved.
    fn affinity(
        &self,
        key: &Key,
        template: &Template,
        claims: &[String],
        waits: bool,
    ) -> Result<Affinity, &'static str> {
        let mut all = template.affinity.clone();
        for claim in claims {
            let claim = (Arc::clone(&key.0), Arc::from(claim.as_str()));
            let bound = self.claims.get(&claim);
            // most claims are bound where their first pod comes to be
            if waits && bound == Some(&None) {
                continue;
            }
            let volume = bound.and_then(|v| self.volumes.get(v.as_deref()?));
            let volume = volume.ok_or("one of its volumes isn't known")?;
            if volume.local {
                return Err("one of its volumes is on its node");
            }
            all.extend(volume.affinity.iter().cloned());
        }
        all.sort();
        all.dedup();
        Ok(all)
    }

    fn workload(
        &mut self,
        id: WorkloadId,
        phase: &Phase,
        template: &Template,
        of: &Siblings,
        affinity: Result<Affinity, &'static str>,
    ) -> Option<Workload> {
        let mut workload = Workload::new(id, template.requests.clone());
        workload.per_node = template.owner == Owner::Node;
        workload.priority = template.priority;
        workload.group = groups::group(template);
        workload.selector.clone_from(&template.selector);
        workload.tolerations.clone_from(&template.tolerations);
        workload.spread.clone_from(&of.spread);
        workload.avoid.clone_from(&of.avoid);
        workload.stays = of.stays.is_some() && !workload.per_node;
        match phase {
            Phase::On(node) => workload.node = Some(node.clone()),
            Phase::Ending(node) => {
                workload.node = Some(node.clone());
                workload.stays = !workload.per_node;
            }
            // what belongs to a node doesn't wake another
            Phase::Unschedulable if workload.per_node => return None,
            Phase::Unschedulable => {}
            Phase::Elsewhere => return None,
        }
        match affinity {
            Ok(affinity) if affinity.is_empty() => {}
            Ok(affinity) => {
                let label = self.fits(affinity);
                workload.stays |= label == names::NOWHERE;
                workload.selector.insert(label, "true".to_owned());
            }
            Err(_) => {
                workload.stays |= !workload.per_node;
                // no node is woken for what isn't known
                if workload.node.is_none() {
                    workload.selector.insert(names::NOWHERE.to_owned(), "true".to_owned());
                }
            }
        }
        let zone = workload.node.as_ref().and_then(|n| self.nodes.get(n)).and_then(|n| n.zone.clone());
        if let Some(zone) = zone.filter(|_| of.keep_zone) {
            workload.selector.insert(self.rules.zone_label.clone(), zone);
        } else if of.keep_zone && workload.node.is_some() {
            workload.stays = true;
        }
        Some(workload)
    }

    /// The label of nodes that an affinity allows.
    fn fits(&mut self, affinity: Affinity) -> String {
        if let Some(label) = self.fits.get(&affinity) {
            return label.clone();
        }
        if self.fits.len() >= AFFINITIES {
            return names::NOWHERE.to_owned();
        }
        let label = format!("{}{:016x}", names::FITS, digest(&affinity));
        self.fits.insert(affinity, label.clone());
        label
    }

    /// Why a workload can't be moved, if it can't.
    pub fn why_stays(&mut self, id: &WorkloadId) -> Option<&'static str> {
        let templates = self.in_use();
        let siblings = self.siblings(&templates);
        let key = self.by_id.get(id)?.clone();
        let known = self.pods.get(&key)?;
        let of = templates.iter().find(|(_, t)| Arc::ptr_eq(t, &known.template));
        let of = of.and_then(|(at, _)| siblings.get(at))?;
        of.stays.or(self.affinity(&key, &known.template, &known.pod.claims, false).err())
    }
}
