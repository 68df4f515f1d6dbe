//! Golden paths, and what holds for any path.

use super::*;
use proptest::prelude::*;

const A: &str = "3f8c1d2e4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0";
const B: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const P: &str = "2f1a9c3e-7b60-4d7e-9a01-5d2c8e4f6b10";
const Q: &str = "aaaaaaaa-bbbb-4ccc-8ddd-eeeeeeeeeeee";
const H: &str = "0f3d8e1b5a7c9d2e4f6a8b0c1d3e5f70";

fn filled(text: &str) -> String {
    let under = P.replace('-', "_");
    [("<A>", A), ("<B>", B), ("<P>", P), ("<Q>", Q), ("<H>", H), ("<P_>", &under)]
        .iter()
        .fold(text.to_owned(), |t, (mark, value)| t.replace(mark, value))
}

fn shown(id: &CgroupIdentity) -> String {
    let mut out = Vec::new();
    if let Some(c) = &id.container {
        out.push(format!("container={}:{}", c.runtime.as_str(), c.id));
    }
    if let Some(p) = &id.pod {
        out.push(format!("pod={}:{}", p.qos.map_or("?", Qos::as_str), p.uid));
    }
    out.extend(id.unit.iter().map(|u| format!("unit={u}")));
    out.extend(id.slice.iter().map(|s| format!("slice={s}")));
    out.extend(id.user.iter().map(|u| format!("user={u}")));
    out.extend(id.machine.iter().map(|m| format!("machine={m}")));
    if out.is_empty() { "-".to_owned() } else { out.join(" ") }
}

fn golden() -> Vec<(String, String)> {
    let text = include_str!("paths.txt");
    let lines: Vec<&str> = text.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).collect();
    lines.chunks(2).map(|pair| (filled(pair[0]), filled(pair[1].trim()))).collect()
}

#[test]
fn paths_tell_what_the_golden_file_says() {
    let cases = golden();
    assert!(cases.len() >= 80, "the golden file lost cases: {}", cases.len());
    let wrong: Vec<String> = cases
        .iter()
        .filter(|(path, want)| shown(&identify(path)) != *want)
        .map(|(path, want)| format!("{path}\n  want {want}\n  have {}", shown(&identify(path))))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_most_telling_hierarchy_is_chosen() {
    let deep = filled("/docker/<B>/kubelet/kubepods/pod<P>/<A>");
    for (text, want) in [
        ("0::/system.slice/nginx.service\n", "/system.slice/nginx.service"),
        ("0::/\n", "/"),
        ("0::/\n1:name=systemd:/user.slice/user-1.slice/session-2.scope\n", "/user.slice/user-1.slice/session-2.scope"),
        (
            "12:memory:/docker/<A>\n4:cpu,cpuacct:/docker/<A>\n1:name=systemd:/docker/<A>\n0::/system.slice/docker.service",
            "/docker/<A>",
        ),
        ("5:rdma:/\n4:cpu,cpuacct:/kubepods/pod<P>/<A>\n1:name=systemd:/init.scope\n", "/kubepods/pod<P>/<A>"),
        ("3:memory:/docker/<B>\n2:pids:/docker/<B>/kubelet/kubepods/pod<P>/<A>\n", deep.as_str()),
        ("2:cpu:/a\n1:name=systemd:/b\n0::/c\n", "/c"),
        ("2:cpu:/a\n1:name=systemd:/b\n", "/b"),
        ("2:cpu:/\n1:name=systemd:/system.slice/x:y.service\n", "/system.slice/x:y.service"),
        ("0::/system.slice/gone.service (deleted)\n", "/system.slice/gone.service"),
        ("0::/../../kubepods/pod<P>/<A>\n", "/kubepods/pod<P>/<A>"),
        ("0::/..\n", "/"),
        ("0::/..hidden\n", "/..hidden"),
    ] {
        assert_eq!(unified_path(filled(text).as_bytes()), Some(filled(want)), "{text}");
    }
    for bad in ["", "\n\n", "0:", "0::", "0::relative", "x::/a", "garbage", "::/"] {
        assert_eq!(unified_path(bad.as_bytes()), None, "{bad:?}");
    }
}

#[test]
fn escapes_are_undone_once() {
    assert_eq!(unescape("a\\x2db\\x20c"), "a-b c");
    assert_eq!(unescape("\\x5cx2d"), "\\x2d");
    for kept in ["\\x", "\\x2", "\\xzz", "\\x00", "\\xff", "\\x+1", "\\xé1", "plain"] {
        assert_eq!(unescape(kept), kept);
    }
}

/// Components that occur in paths, so that generated paths reach the parser's branches.
fn component() -> impl Strategy<Value = String> {
    const KNOWN: &[&str] = &[
        "docker",
        "kubepods",
        "kubepods.slice",
        "burstable",
        "pod<P>",
        "pod<H>",
        "kubepods-pod<P_>.slice",
        "<A>",
        "<B>",
        "docker-<B>.scope",
        "libpod-<A>.scope",
        "crio-conmon-<A>.scope",
        "lxc",
        "lxc.payload.web",
        "ecs",
        "default",
        "x.slice:cri-containerd:<A>",
        "machine-qemu\\x2d1\\x2da\\x2db.scope",
        "machine-\\x2d\\x.scope",
        "qemu.slice",
        "100.scope",
        "user-1000.slice",
        "user@7.service",
        "init.scope",
        "a.service",
        "garden",
        "good",
        "..",
        "",
    ];
    prop_oneof![4 => proptest::sample::select(KNOWN).prop_map(filled), 1 => "[^/\n]{0,12}"]
}

fn path() -> impl Strategy<Value = String> {
    proptest::collection::vec(component(), 0..8).prop_map(|parts| format!("/{}", parts.join("/")))
}

proptest! {
    #[test]
    fn what_is_found_stands_in_the_path(path in prop_oneof![path(), any::<String>()]) {
        let id = identify(&path);
        let plain = unescape(&path);
        for found in [id.container.as_ref().map(|c| &c.id), id.machine.as_ref()].into_iter().flatten() {
            prop_assert!(!found.is_empty() && plain.contains(found.as_str()), "{found}");
        }
        for found in [id.unit.as_ref(), id.slice.as_ref()].into_iter().flatten() {
            prop_assert!(path.split('/').any(|part| part == found), "{found}");
        }
        if let Some(pod) = &id.pod {
            prop_assert!(!pod.uid.is_empty() && path.replace('_', "-").contains(&pod.uid));
        }
        if let Some(uid) = id.user {
            prop_assert!(path.contains(&uid.to_string()));
        }
        prop_assert_eq!(identify(&format!("{path}/")), id);
    }

    #[test]
    fn a_chosen_path_is_chosen_again(bytes in any::<Vec<u8>>(), paths in proptest::collection::vec(path(), 1..5)) {
        let lines: String = paths.iter().enumerate().map(|(i, p)| format!("{i}:c{i}:{p} (deleted)\n")).collect();
        for text in [bytes.as_slice(), lines.as_bytes()] {
            if let Some(first) = unified_path(text) {
                prop_assert!(first.starts_with('/'));
                prop_assert_eq!(unified_path(format!("0::{first}\n").as_bytes()), Some(first));
            }
        }
        let chosen = unified_path(lines.as_bytes()).unwrap();
        let best = paths.iter().map(|p| Scan::of(p).rank()).max();
        prop_assert_eq!(Some(Scan::of(&chosen).rank()), best, "{}", chosen);
    }

    #[test]
    fn a_child_group_stays_in_its_container(
        which in any::<proptest::sample::Index>(),
        children in proptest::collection::vec("init\\.scope|payload|ns|container|libvirt|vcpu0|[a-z]{1,8}\\.(service|slice)|x[a-z0-9-]{0,20}", 1..4),
    ) {
        let cases = golden();
        let (path, _) = which.get(&cases);
        let parent = identify(path);
        let child = identify(&format!("{path}/{}", children.join("/")));
        if parent.container.is_some() {
            prop_assert_eq!(&child.container, &parent.container);
        }
        prop_assert_eq!((&child.pod, child.user), (&parent.pod, parent.user));
    }
}
