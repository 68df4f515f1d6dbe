//! What workloads are added up under: namespaces, pods, applications, … Pure.

use ebbtide_proto::WorkloadKind;
use ebbtide_proto::series::WorkloadInfo;
use ebbtide_proto::v1::GroupBy;

/// The group that a workload belongs to; `None` if such a grouping leaves it out.
pub fn of_workload(by: GroupBy, info: &WorkloadInfo) -> Option<String> {
    let name = info.id.name();
    match (by, info.id.kind()) {
        (GroupBy::Namespace, WorkloadKind::Namespace)
        | (GroupBy::Unit, WorkloadKind::Unit)
        | (GroupBy::User, WorkloadKind::User)
        | (GroupBy::Vm, WorkloadKind::Vm)
        | (GroupBy::Pod, WorkloadKind::Pod)
        | (GroupBy::Container, WorkloadKind::Container) => Some(shown(info)),
        (GroupBy::App, WorkloadKind::Pod) => Some(app_of_pod(info)),
        (GroupBy::App, WorkloadKind::Unit) if info.label("pod").is_none() => Some(app_of_unit(name)),
        _ => None,
    }
}

/// What people call a workload.
pub fn shown(info: &WorkloadInfo) -> String {
    let name = info.id.name();
    match info.id.kind() {
        WorkloadKind::Pod => pod(info),
        WorkloadKind::Container | WorkloadKind::Vm => info.label("name").unwrap_or(name).to_owned(),
        _ => name.to_owned(),
    }
}

/// `namespace/pod`, or its uid as long as nobody knows its name.
fn pod(info: &WorkloadInfo) -> String {
    match (info.label("namespace"), pod_name(info)) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        _ => info.id.name().to_owned(),
    }
}

fn pod_name(info: &WorkloadInfo) -> Option<&str> {
    info.label("pod").or_else(|| info.label("name")).filter(|name| *name != info.id.name())
}

/// The application of a pod: label `app`, else its name without what makes it unique.
fn app_of_pod(info: &WorkloadInfo) -> String {
    let label = info.label("app").or_else(|| info.label("app.kubernetes.io/name")).filter(|app| !app.is_empty());
    label.unwrap_or_else(|| pod_name(info).map_or(info.id.name(), without_suffix)).to_owned()
}

/// A pod's name without the ordinal of a stateful set, or the hashes of a deployment or daemon set.
fn without_suffix(name: &str) -> &str {
    // the alphabet of Kubernetes' random suffixes has no vowels and no 0, 1, 3
    let random = |part: &str| part.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b));
    let Some((rest, last)) = name.rsplit_once('-') else { return name };
    if !last.is_empty() && last.len() <= 4 && last.bytes().all(|b| b.is_ascii_digit()) {
        return rest;
    }
    if last.len() != 5 || !random(last) {
        return name;
    }
    match rest.rsplit_once('-') {
        Some((base, hash)) if (6..=10).contains(&hash.len()) && random(hash) && !base.is_empty() => base,
        _ => rest,
    }
}

/// `getty@tty1.service` → `getty.service`.
fn app_of_unit(name: &str) -> String {
    match (name.split_once('@'), name.rsplit_once('.')) {
        (Some((stem, _)), Some((_, kind))) if !stem.is_empty() && !kind.contains('@') => format!("{stem}.{kind}"),
        (Some((stem, _)), _) if !stem.is_empty() => stem.to_owned(),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_is_a_name_without_what_makes_it_unique() {
        for (pod, app) in [
            ("web-7d4b9c6f5d-x2x7k", "web"),
            ("my-api-6f5d4b9c7d-bcdfg", "my-api"),
            ("node-exporter-x2x7k", "node-exporter"),
            ("db-0", "db"),
            ("db-12", "db"),
            ("standalone", "standalone"),
            ("cache-redis", "cache-redis"),
            ("job-about", "job-about"),
        ] {
            assert_eq!(without_suffix(pod), app, "{pod}");
        }
        for (unit, app) in [
            ("nginx.service", "nginx.service"),
            ("getty@tty1.service", "getty.service"),
            ("user@1000.service", "user.service"),
            ("init.scope@1000", "init.scope"),
        ] {
            assert_eq!(app_of_unit(unit), app, "{unit}");
        }
    }
}
