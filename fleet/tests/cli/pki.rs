//! Certificates and contexts, as people make and use them.

use std::os::unix::fs::PermissionsExt as _;

use ebbtide_fleet::pki::tls::{self, Alpn, Credentials};
use ebbtide_fleet::pki::{Authority, identity_of};
use ebbtide_proto::NodeId;
use ebbtide_proto::identity::{Identity, Role};

use crate::made_up::{MadeUp, Mood};
use crate::{Home, golden};

const DAY_MS: u64 = 86_400_000;

fn now_ms() -> u64 {
    ebbtide_runtime::clock::now().wall / 1_000_000
}

fn ok(home: &Home, args: &str) -> String {
    let ran = home.run(args);
    assert_eq!(ran.code, Some(0), "{args}: {ran:?}");
    ran.out + &ran.err
}

/// A fleet with TLS, of an authority in the folder `pki` of `home`.
fn fleet(home: &Home) -> MadeUp {
    ok(home, "pki init --dir pki");
    ok(home, "pki issue-fleet --dir pki --name localhost --name 127.0.0.1");
    let own = Credentials::read(&home.path("pki/fleet.pem"), &home.path("pki/fleet-key.pem")).unwrap();
    let authority = Authority::load(&home.path("pki")).unwrap();
    let tls = tls::server_config(own, &[authority.certificate_der().clone()], Alpn::Http2).unwrap();
    MadeUp::start_tls(Mood::Well, tls)
}

#[test]
fn roles_decide_what_the_fleet_answers() {
    let home = Home::new();
    let fleet = fleet(&home);
    let url = format!("https://localhost:{}", fleet.address.port());
    for role in ["viewer", "operator", "admin"] {
        ok(&home, &format!("pki issue-operator --dir pki {role}s --role {role}"));
        let set = format!(
            "context set {role} --fleet {url} --ca pki/ca.pem --cert pki/{role}s.pem --key pki/{role}s-key.pem"
        );
        ok(&home, &set);
    }
    // the first one is the current one
    assert!(ok(&home, "status").contains("viewer · over TLS"));
    assert!(ok(&home, "doctor").contains("ebbtide://operator/viewer/viewers"));
    let denied = home.run("token create");
    assert_eq!(denied.code, Some(4), "{denied:?}");
    assert!(denied.err.contains("needs the role admin, you have viewer") && denied.err.lines().count() <= 3);
    assert_eq!(home.run("token create --context operator").code, Some(4));
    ok(&home, "context use admin");
    let made = ok(&home, "token create");
    assert!(made.contains(&format!("ebbtide-agent join --fleet {url} --token t7.s3cret.abab")), "{made}");
    // the environment goes before the current context, a flag before the environment
    let ran = home.command("token create").env("EBBTIDE_CONTEXT", "viewer").output().unwrap();
    assert_eq!(ran.status.code(), Some(4));
    let ran = home.command("token create --context admin").env("EBBTIDE_CONTEXT", "viewer").output().unwrap();
    assert_eq!(ran.status.code(), Some(0));
    let list = ok(&home, "context list").replace(&fleet.address.port().to_string(), "9884");
    golden("context-list.txt", &list.replace(home.path("").to_str().unwrap(), "/home/"));
    ok(&home, "context delete admin");
    assert!(ok(&home, "context show").contains("http://127.0.0.1:9884"), "no context is no secret guess");

    // nobody, a node, a stranger, somebody whose time is over
    let url = format!("--fleet {url} --ca pki/ca.pem");
    let nobody = home.run(&format!("nodes {url}"));
    assert_eq!(nobody.code, Some(4), "{nobody:?}");
    assert!(nobody.err.contains("wants to know who asks"), "{nobody:?}");
    ok(&home, "pki issue-node --dir pki edge1");
    let node = home.run(&format!("nodes {url} --cert pki/edge1.pem --key pki/edge1-key.pem"));
    assert_eq!(node.code, Some(4), "{node:?}");
    ok(&home, "pki init --dir other");
    ok(&home, "pki issue-operator --dir other eve --role admin");
    let eve = home.run(&format!("nodes {url} --cert other/eve.pem --key other/eve-key.pem"));
    assert_eq!(eve.code, Some(4), "{eve:?}");
    assert!(eve.err.contains("refused the certificate"), "{eve:?}");
    let authority = Authority::load(&home.path("pki")).unwrap();
    let bob = Identity::Operator { role: Role::Viewer, name: NodeId::new("bob").unwrap() };
    let old = authority.issue(&bob, &[], 1, now_ms() - 3 * DAY_MS).unwrap();
    std::fs::write(home.path("old.pem"), old.chain_pem).unwrap();
    std::fs::write(home.path("old-key.pem"), old.key_pem).unwrap();
    let old = home.run(&format!("nodes {url} --cert old.pem --key old-key.pem"));
    assert_eq!(old.code, Some(4), "{old:?}");
    let doctor = home.run(&format!("doctor {url} --cert old.pem --key old-key.pem"));
    assert!(doctor.out.contains("the certificate ended 2 d"), "{doctor:?}");

    // a fleet that is not the one that was meant
    let strange = home.run(&format!("nodes --fleet https://localhost:{} --ca other/ca.pem", fleet.address.port()));
    assert_eq!(strange.code, Some(1), "{strange:?}");
    assert!(strange.err.contains("not from the authority in other/ca.pem"), "{strange:?}");
    let name = home.run(&format!("nodes --fleet https://[::ffff:127.0.0.1]:{} --ca pki/ca.pem", fleet.address.port()));
    assert!(name.err.contains("not for \"::ffff:127.0.0.1\""), "{name:?}");
    let plain = home.run(&format!("nodes --fleet http://localhost:{} --timeout 5s", fleet.address.port()));
    assert_eq!(plain.code, Some(1), "{plain:?}");
    assert!(plain.err.contains("https://"), "{plain:?}");
}

#[test]
fn certificates_are_made_once_and_kept_from_others() {
    let home = Home::new();
    let none = home.run("pki issue-node edge1");
    assert_eq!(none.code, Some(1), "{none:?}");
    assert!(none.err.contains("ebbtide pki init"), "{none:?}");
    let dry = home.run("pki init --dry-run");
    assert!(dry.out.is_empty() && dry.err.contains("would write"), "{dry:?}");
    assert!(!home.path("config").exists());

    let made = home.run("pki init");
    assert!(made.out.contains("Ebbtide authority") && made.err.contains("issue-fleet"), "{made:?}");
    let dir = home.path("config/ebbtide/pki");
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca-key.pem"), mode("ca.pem")), (0o600, 0o644));
    let again = home.run("pki init");
    assert_eq!(again.code, Some(1));
    assert!(again.err.contains("--force"), "{again:?}");

    let dry = home.run("pki issue-operator alice --role admin --dry-run");
    assert!(dry.err.contains("would write") && !dir.join("alice.pem").exists(), "{dry:?}");
    ok(&home, "pki issue-operator alice --role admin");
    ok(&home, "pki issue-node Edge1.Site --days 30");
    ok(&home, "pki issue-fleet --name fleet.example 10.0.0.7");
    assert_eq!([mode("alice-key.pem"), mode("edge1.site-key.pem"), mode("fleet-key.pem")], [0o600; 3]);
    assert_eq!(home.run("pki issue-node edge1.site").code, Some(1));
    let before = std::fs::read(dir.join("edge1.site.pem")).unwrap();
    ok(&home, "pki issue-node edge1.site --force");
    assert_ne!(std::fs::read(dir.join("edge1.site.pem")).unwrap(), before);

    golden("pki-show.txt", &ok(&home, "pki show").replace(&tag(&home)[..4], "0000"));
    let csv = ok(&home, "pki show -o csv");
    assert!(csv.contains("fleet.example;10.0.0.7") && csv.contains("ebbtide://operator/admin/alice"), "{csv}");
    let json = ok(&home, &format!("pki show {} -o json", dir.join("alice.pem").display()));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["certificates"][0]["identity"], "ebbtide://operator/admin/alice");
    assert_eq!(json["certificates"][0]["uses"], serde_json::json!(["client"]));

    // what is there is what was asked for
    let pem = std::fs::read_to_string(dir.join("alice.pem")).unwrap();
    let chain = tls::certificates("alice", &pem).unwrap();
    let alice = Identity::Operator { role: Role::Admin, name: NodeId::new("alice").unwrap() };
    assert_eq!((chain.len(), identity_of(&chain[0]).unwrap()), (2, alice));

    for wrong in [
        "pki issue-operator alice --role root --force",
        "pki issue-node a/b",
        "pki issue-node ../x",
        "pki issue-node ca --force",
        "pki issue-node ca-key --force",
        "pki issue-operator alice-key --role admin --force",
        "pki issue-fleet --name https://x --force",
        "pki issue-fleet",
        "pki issue-node edge2 --days 0",
        "pki issue-node edge2 --days 9999",
    ] {
        let ran = home.run(wrong);
        assert_eq!(ran.code, Some(2), "{wrong}: {ran:?}");
    }
    assert!(Authority::load(&dir).is_ok(), "nothing of that has touched the authority");
}

/// What tells this authority from others in its name.
fn tag(home: &Home) -> String {
    let json: serde_json::Value = serde_json::from_str(&home.run("pki show -o json").out).unwrap();
    let subject = json["certificates"][0]["issuer"].as_str().unwrap().to_owned();
    subject.rsplit(' ').next().unwrap().to_owned()
}

#[test]
fn a_file_of_contexts_that_is_wrong_is_told_and_left_as_it_is() {
    let home = Home::new();
    let file = home.path("contexts.toml");
    std::fs::write(&file, "current = \"prod\"\n[contexts.prod]\nflet = \"x\"\n").unwrap();
    let run = |args: &str| {
        let output = home.command(args).env("EBBTIDE_CONFIG", &file).output().unwrap();
        crate::Ran::of(output)
    };
    let ran = run("nodes");
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("contexts.toml line 3") && ran.err.contains("flet"), "{ran:?}");
    assert_eq!(run("context set x --fleet y.example").code, Some(2));
    assert!(std::fs::read_to_string(&file).unwrap().contains("flet ="));
    std::fs::write(&file, "current = \"prod\"\n").unwrap();
    let gone = run("nodes");
    assert!(gone.code == Some(1) && gone.err.contains("there is no context \"prod\""), "{gone:?}");
    let dry = run("context set x --fleet y.example --dry-run");
    assert!(dry.err.contains("would write"), "{dry:?}");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "current = \"prod\"\n");
    for wrong in ["context set x", "context set a/b --fleet y", "context set x --fleet y --cert z"] {
        assert_eq!(run(wrong).code, Some(2), "{wrong}");
    }
    assert_eq!(run("context use nowhere").code, Some(1));
    let set = run("context set x --fleet Y.example --ca sub/ca.pem");
    assert!(set.code == Some(0) && set.err.contains("https://y.example:9884"), "{set:?}");
    let mode = file.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
    assert!(run("context show --context x").out.contains(home.path("sub/ca.pem").to_str().unwrap()));
}
