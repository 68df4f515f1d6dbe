use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::time::Duration;

use ebbtide_proto::NodeId;
use ebbtide_proto::identity::{Identity, Role};
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, SanType};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::authority::Authority;
use super::tls::{self, Alpn, Credentials};
use super::{Certificate, PkiError, days, files, identity_of};

/// 2026-11-22.
const NOW: u64 = 1_795_305_600_000;
const DAY_MS: u64 = 86_400_000;

fn node(name: &str) -> Identity {
    Identity::Node(NodeId::new(name).unwrap())
}

fn operator(role: Role) -> Identity {
    Identity::Operator { role, name: NodeId::new("alice").unwrap() }
}

fn der(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()
}

/// What webpki says of a chain at a moment.
fn verify(authority: &Authority, pem: &str, usage: KeyUsage, at_ms: u64) -> Result<(), webpki::Error> {
    let leaf = der(pem);
    let anchors = [anchor_from_trusted_cert(authority.certificate_der()).unwrap()];
    let at = UnixTime::since_unix_epoch(Duration::from_millis(at_ms));
    let entity = EndEntityCert::try_from(&leaf).unwrap();
    entity.verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &anchors, &[], at, usage, None, None).map(drop)
}

#[test]
fn what_it_signs_is_believed_as_what_it_says_for_as_long_as_it_says() {
    let (ours, _) = Authority::generate(NOW).unwrap();
    let (foreign, _) = Authority::generate(NOW).unwrap();
    let mut all = vec![node("edge1.site"), Identity::Fleet];
    all.extend(Role::ALL.map(operator));
    for identity in all {
        let server = identity == Identity::Fleet;
        let names: Vec<String> = if server { vec!["fleet.example".into(), "10.0.0.7".into()] } else { vec![] };
        let issued = ours.issue(&identity, &names, 30, NOW).unwrap();
        let pem = &issued.certificate_pem;
        assert_eq!(identity_of(&der(pem)).unwrap(), identity);
        verify(&ours, pem, KeyUsage::client_auth(), NOW).unwrap();
        // clocks that are somewhat behind
        verify(&ours, pem, KeyUsage::client_auth(), NOW - 3_500_000).unwrap();
        assert!(verify(&ours, pem, KeyUsage::client_auth(), NOW - 3_700_000).is_err());
        assert_eq!(issued.expires_ms, NOW + 30 * DAY_MS);
        verify(&ours, pem, KeyUsage::client_auth(), issued.expires_ms - 1000).unwrap();
        let late = verify(&ours, pem, KeyUsage::client_auth(), issued.expires_ms + 1000);
        assert!(matches!(late, Err(webpki::Error::CertExpired { .. })), "{late:?}");
        assert_eq!(verify(&ours, pem, KeyUsage::server_auth(), NOW).is_ok(), server, "only the fleet is a server");
        let stranger = verify(&foreign, pem, KeyUsage::client_auth(), NOW);
        assert_eq!(stranger, Err(webpki::Error::UnknownIssuer));
        let said = Certificate::read_pem("test", pem).unwrap();
        assert_eq!((said.names, said.expires_ms), (names, issued.expires_ms));
        assert_eq!((said.for_clients, said.for_servers, said.is_authority), (true, server, false));
        assert_eq!(issued.chain_pem, format!("{pem}{}", ours.certificate_pem()));
        assert!(!format!("{issued:?}").contains("PRIVATE"), "a key must not get into a log");
    }
}

#[test]
fn nothing_outlives_its_authority() {
    let (authority, _) = Authority::generate(NOW).unwrap();
    assert_eq!(authority.expires_ms(), NOW + u64::from(days::AUTHORITY) * DAY_MS);
    let late = authority.expires_ms() - 10 * DAY_MS;
    assert_eq!(authority.issue(&node("n"), &[], 365, late).unwrap().expires_ms, authority.expires_ms());
    let after = authority.issue(&node("n"), &[], 365, authority.expires_ms());
    assert!(matches!(after, Err(PkiError::AuthorityEnded)), "{after:?}");
    for days in [0, 3653, u32::MAX] {
        assert!(matches!(authority.issue(&node("n"), &[], days, NOW), Err(PkiError::Days(_))));
    }
    assert!(Authority::generate(u64::MAX).is_err(), "a clock beyond all years");
}

#[test]
fn a_leaf_signs_nothing() {
    let (authority, _) = Authority::generate(NOW).unwrap();
    let leaf = authority.issue(&node("edge1"), &[], 30, NOW).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("ca.pem"), &leaf.certificate_pem).unwrap();
    std::fs::write(dir.path().join("ca-key.pem"), &leaf.key_pem).unwrap();
    let loaded = Authority::load(dir.path());
    assert!(loaded.unwrap_err().to_string().contains("may not sign"));
}

#[test]
fn of_a_request_only_the_key_is_taken() {
    let (authority, _) = Authority::generate(NOW).unwrap();
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::new(vec!["fleet.example".to_owned()]).unwrap();
    params.subject_alt_names.push(SanType::URI("ebbtide://operator/admin/eve".try_into().unwrap()));
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    let request = params.serialize_request(&key).unwrap();
    let signed = authority.sign_request(request.der(), &node("edge1"), 365, NOW).unwrap();
    let said = Certificate::read_pem("test", &signed.certificate_pem).unwrap();
    assert_eq!(said.identity, Some(node("edge1")));
    assert_eq!((said.names.len(), said.is_authority, said.for_servers), (0, false, false));
    verify(&authority, &signed.certificate_pem, KeyUsage::client_auth(), NOW).unwrap();
    // it is the requester's key, and a renewal of it is another certificate
    Credentials::from_pem("test", &signed.chain_pem, &key.serialize_pem()).unwrap();
    let again = authority.sign_request(request.der(), &node("edge1"), 365, NOW).unwrap();
    let again = Certificate::read_pem("test", &again.certificate_pem).unwrap();
    assert_ne!(again.serial, said.serial);
    // who doesn't have the key gets no certificate
    let mut forged = request.der().to_vec();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    for bad in [&forged[..], b"", b"\x30\x80", &[0x30; 20_000]] {
        let refused = authority.sign_request(bad, &node("edge1"), 365, NOW);
        assert!(matches!(refused, Err(PkiError::Unusable { .. })), "{refused:?}");
    }
}

#[test]
fn one_certificate_is_one_identity() {
    let identity = |uris: &[&str]| {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["edge1".to_owned()]).unwrap();
        params.subject_alt_names.extend(uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())));
        identity_of(params.self_signed(&key).unwrap().der())
    };
    assert_eq!(identity(&["spiffe://x/y", "ebbtide://node/edge1"]).unwrap(), node("edge1"));
    assert!(matches!(identity(&["spiffe://x/y"]), Err(PkiError::NoIdentity)));
    assert!(matches!(
        identity(&["ebbtide://node/edge1", "ebbtide://operator/admin/eve"]),
        Err(PkiError::SeveralIdentities(2))
    ));
    // also where one of them is malformed or in other letters: it is no reason to believe the other
    assert!(matches!(identity(&["ebbtide://node/edge1", "EBBTIDE://x"]), Err(PkiError::SeveralIdentities(2))));
    assert!(matches!(identity(&["ebbtide://node/edge 1"]), Err(PkiError::Identity(_))));
    assert!(matches!(identity(&["EBBTIDE://node/edge1"]), Err(PkiError::Identity(_))));
    for bytes in [&b""[..], b"\x30\x03\x02\x01\x00", &[0xff; 100]] {
        assert!(matches!(identity_of(bytes), Err(PkiError::Unusable { .. })));
    }
}

#[test]
fn an_authority_is_kept_and_its_key_is_for_its_owner() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("new/pki");
    let made = Authority::init(&dir, false, NOW).unwrap();
    let mode = |name: &str| dir.join(name).metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode("ca.pem"), mode("ca-key.pem")), (0o644, 0o600));
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    let loaded = Authority::load(&dir).unwrap();
    assert_eq!((loaded.fingerprint(), loaded.fingerprint().len()), (made.fingerprint(), 64));
    let issued = loaded.issue(&node("edge1"), &[], 30, NOW).unwrap();
    verify(&made, &issued.certificate_pem, KeyUsage::client_auth(), NOW).unwrap();

    // it is not replaced by mistake
    assert!(matches!(Authority::init(&dir, false, NOW), Err(PkiError::Exists { .. })));
    assert_eq!(Authority::load(&dir).unwrap().fingerprint(), made.fingerprint());
    let key = std::fs::read_to_string(dir.join("ca-key.pem")).unwrap();
    // a key that others could read becomes private when it is replaced
    std::fs::set_permissions(dir.join("ca-key.pem"), std::fs::Permissions::from_mode(0o644)).unwrap();
    let new = Authority::init(&dir, true, NOW).unwrap();
    assert_ne!(new.fingerprint(), made.fingerprint());
    assert_eq!(mode("ca-key.pem"), 0o600);
    let left: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");

    // files that don't belong together
    std::fs::write(dir.join("ca-key.pem"), key).unwrap();
    assert!(Authority::load(&dir).unwrap_err().to_string().contains("not its key"));
    std::fs::write(dir.join("ca.pem"), "nothing").unwrap();
    assert!(matches!(Authority::load(&dir), Err(PkiError::Empty { .. })));
    std::fs::write(dir.join("ca.pem"), vec![b' '; (1 << 20) + 1]).unwrap();
    assert!(matches!(Authority::load(&dir), Err(PkiError::Read { .. })));
    assert!(matches!(files::read(&dir), Err(PkiError::Read { .. })), "a folder");
}

#[test]
fn servers_have_names_that_exist() {
    let (authority, _) = Authority::generate(NOW).unwrap();
    let issue = |names: &[&str]| {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        authority.issue(&Identity::Fleet, &names, 365, NOW)
    };
    assert!(matches!(issue(&[]), Err(PkiError::NoName)));
    for bad in ["", "a b", "https://x", "x:9884", "*"] {
        assert!(matches!(issue(&[bad]), Err(PkiError::Name(_))), "{bad}");
    }
    let issued = issue(&["Fleet.Example", "::1", "localhost"]).unwrap();
    let leaf = der(&issued.certificate_pem);
    let entity = EndEntityCert::try_from(&leaf).unwrap();
    for name in ["fleet.example", "::1", "localhost"] {
        entity.verify_is_valid_for_subject_name(&ServerName::try_from(name).unwrap()).unwrap();
    }
    assert!(entity.verify_is_valid_for_subject_name(&ServerName::try_from("127.0.0.1").unwrap()).is_err());
}

/// Whom a server met: the identity shown to it, or why there was no connection.
fn meet(server: rustls::ServerConfig, client: rustls::ClientConfig, name: &str) -> Result<Option<Identity>, String> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
    let mut server = rustls::ServerConnection::new(Arc::new(server)).unwrap();
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(|e| e.to_string())?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(|e| e.to_string())?;
    }
    let shown = server.peer_certificates().and_then(|chain| chain.first());
    Ok(shown.map(|leaf| identity_of(leaf).unwrap()))
}

#[test]
fn servers_and_clients_meet() {
    // TLS looks at the machine's clock, so these certificates are of today
    let now = ebbtide_runtime::clock::now().wall / 1_000_000;
    let (ours, _) = Authority::generate(now).unwrap();
    let (foreign, _) = Authority::generate(now).unwrap();
    let pair = |authority: &Authority, who: &Identity, days: u32, at: u64| {
        let names: Vec<String> = if *who == Identity::Fleet { vec!["localhost".into()] } else { vec![] };
        let issued = authority.issue(who, &names, days, at).unwrap();
        Credentials::from_pem("test", &issued.chain_pem, &issued.key_pem).unwrap()
    };
    let trust = |authority: &Authority| [authority.certificate_der().clone()];
    let server = |own: Credentials| tls::server_config(own, &trust(&ours), Alpn::Http2).unwrap();
    let client = |own: Option<Credentials>| tls::client_config(&trust(&ours), own, Alpn::Http2).unwrap();
    let fleet = || pair(&ours, &Identity::Fleet, 30, now);

    let alice = pair(&ours, &operator(Role::Admin), 30, now);
    assert_eq!(meet(server(fleet()), client(Some(alice)), "localhost"), Ok(Some(operator(Role::Admin))));
    assert_eq!(meet(server(fleet()), client(None), "localhost"), Ok(None), "who enrols has none yet");
    let eve = pair(&foreign, &operator(Role::Admin), 30, now);
    assert!(meet(server(fleet()), client(Some(eve)), "localhost").is_err(), "another authority's operator");
    let old = pair(&ours, &node("edge1"), 1, now - 2 * DAY_MS);
    assert!(meet(server(fleet()), client(Some(old)), "localhost").unwrap_err().contains("xpired"));
    assert!(meet(server(fleet()), client(None), "fleet.example").unwrap_err().contains("not valid for"));
    let impostor = pair(&foreign, &Identity::Fleet, 30, now);
    assert!(meet(server(impostor), client(None), "localhost").unwrap_err().contains("UnknownIssuer"));
    let node_as_server = pair(&ours, &node("localhost"), 30, now);
    assert!(meet(server(node_as_server), client(None), "localhost").is_err());
    // they must want the same
    let http1 = tls::client_config(&trust(&ours), None, Alpn::Http1).unwrap();
    assert!(meet(server(fleet()), http1, "localhost").is_err());
    // a key that is another's
    let (a, b) = (fleet(), fleet());
    let mixed = Credentials { chain: a.chain, key: b.key };
    assert!(matches!(tls::server_config(mixed, &trust(&ours), Alpn::Http2), Err(PkiError::Unusable { .. })));
}
