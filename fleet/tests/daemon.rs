//! The fleet daemon as agents, operators and strangers meet it: over real connections.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/daemon.rs"]
mod support;

use ebbtide_fleet::pki::Authority;
use ebbtide_proto::frame::pack;
use ebbtide_proto::identity::Role;
use ebbtide_proto::v1;
use ebbtide_proto::v1::agent_message::Kind;
use ebbtide_proto::v1::enrolment_client::EnrolmentClient;
use ebbtide_proto::v1::fleet_client::FleetClient;
use support::{Agent, Daemon, batch, hello, now_ms, run};
use tonic::{Code, Status};

async fn refused(daemon: &Daemon, hello: v1::Hello) -> Status {
    match Agent::join(daemon.connect().await, hello).await {
        Ok(_) => panic!("it was let in"),
        Err(status) => status,
    }
}

#[test]
fn what_is_sent_is_safe_then_acknowledged_and_seen() {
    run(async {
        let daemon = Daemon::plain(|_| {}).await;
        let mut agent = Agent::join(daemon.connect().await, hello("edge1", 7)).await.unwrap();
        assert_eq!(agent.welcome.acked_seq, 0);
        let t = now_ms() - 4000;
        agent.send(&batch(1, &[t, t + 1000], &[1_000_000, 21_000_000])).await;
        agent.acked(1).await.unwrap();
        agent.send(&batch(2, &[t + 2000, t + 3000], &[41_000_000, 61_000_000])).await;
        agent.acked(2).await.unwrap();
        let mut fleet = FleetClient::new(daemon.connect().await);
        let node = fleet.get_node(v1::GetNodeRequest { name: "edge1".into() }).await.unwrap().into_inner();
        let about = node.node.unwrap();
        assert_eq!(
            (about.state(), about.power_uw, about.today_uj),
            (v1::NodeState::Live, Some(20_000_000), 60_000_000)
        );
        assert_eq!(about.quality(), v1::Quality::Measured);
        assert_eq!((node.workloads[0].name.as_str(), node.workloads[0].power_uw), ("shop", Some(10_000_000)));
        for (by, name, uj) in [
            (v1::GroupBy::Node, "edge1", 60_000_000),
            (v1::GroupBy::Namespace, "shop", 30_000_000),
            (v1::GroupBy::Component, "cpu", 60_000_000),
            (v1::GroupBy::Zone, "edge1/package-0", 60_000_000),
        ] {
            let question = v1::QueryEnergyRequest { from_ms: t - 60_000, by: by.into(), ..Default::default() };
            let answer = fleet.query_energy(question).await.unwrap().into_inner();
            let groups: Vec<_> = answer.groups.iter().map(|g| (g.name.as_str(), g.total_uj)).collect();
            assert_eq!(groups, [(name, uj)], "{by:?}");
        }
        let metrics = daemon.page("/metrics").await;
        for line in [
            "ebbtide_fleet_node_energy_joules_total{node=\"edge1\",zone=\"package-0\",counts=\"true\",quality=\"measured\"} 61.000000",
            "ebbtide_fleet_node_power_watts{node=\"edge1\",quality=\"measured\"} 20",
            "ebbtide_fleet_namespace_energy_joules_total{namespace=\"shop\"} 30.000000",
            "ebbtide_fleet_frames_total 2",
        ] {
            assert!(metrics.lines().any(|l| l == line), "{line} in\n{metrics}");
        }
        assert!(daemon.page("/").await.contains("edge1") && daemon.page("/node/edge1").await.contains("package-0"));
        // sent again over another connection: known, and not counted twice
        let mut again = Agent::join(daemon.connect().await, hello("edge1", 7)).await.unwrap();
        assert_eq!(again.welcome.acked_seq, 2);
        assert_eq!(agent.refused().await.code(), Code::Aborted, "the older connection ends");
        again.send(&batch(2, &[t + 2000, t + 3000], &[41_000_000, 61_000_000])).await;
        again.send(&batch(3, &[t + 3500], &[71_000_000])).await;
        again.acked(3).await.unwrap();
        again.send_raw(Kind::Goodbye(v1::Goodbye { reason: "stopped".into() })).await;
        assert_eq!(again.refused().await.code(), Code::Ok);
        let answer = fleet.get_node(v1::GetNodeRequest { name: "edge1".into() }).await.unwrap().into_inner();
        let about = answer.node.unwrap();
        assert_eq!((about.state(), about.power_uw, about.today_uj), (v1::NodeState::Gone, None, 70_000_000));
        let status = fleet.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.frames, status.duplicates, status.your_role.as_str()), (3, 1, "viewer"));
        let folder = daemon.stop().await;
        let report = ebbtide_fleet::store::verify(&folder.path().join("data")).unwrap();
        assert!(report.is_clean(), "{report:?}");
    });
}

#[test]
fn agents_that_make_no_sense_are_refused_with_a_reason_and_counted() {
    run(async {
        let daemon = Daemon::plain(|c| c.limits.nodes = 3).await;
        let year = 365 * 86_400_000;
        let late = refused(&daemon, v1::Hello { now_ms: now_ms() - year - 60_000, ..hello("late", 1) }).await;
        assert_eq!(late.code(), Code::FailedPrecondition);
        assert!(late.message().contains("365 days behind") && late.message().contains("NTP"), "{late}");
        let early = refused(&daemon, v1::Hello { now_ms: now_ms() + year + 60_000, ..hello("late", 1) }).await;
        assert!(early.message().contains("365 days ahead"), "{early}");
        let old = refused(&daemon, v1::Hello { protocol: 0, ..hello("late", 1) }).await;
        assert_eq!(old.code(), Code::FailedPrecondition);
        let name = refused(&daemon, hello("no name at all", 1)).await;
        assert_eq!(name.code(), Code::InvalidArgument);

        // who is refused is shown, with the reason
        let mut fleet = FleetClient::new(daemon.connect().await);
        let node = fleet.get_node(v1::GetNodeRequest { name: "late".into() }).await.unwrap().into_inner().node.unwrap();
        assert_eq!(node.state(), v1::NodeState::Refused);
        assert!(node.trouble.contains("protocol"), "{}", node.trouble);

        // two agents of one name: the first goes on
        let mut first = Agent::join(daemon.connect().await, hello("twin", 1)).await.unwrap();
        let second = refused(&daemon, hello("twin", 2)).await;
        assert_eq!(second.code(), Code::AlreadyExists);
        assert!(second.message().contains("two agents call themselves twin"), "{second}");
        let t = now_ms();
        first.send(&batch(1, &[t], &[5])).await;
        first.acked(1).await.unwrap();

        // frames out of order, of the future, or that contradict themselves
        let mut gap = Agent::join(daemon.connect().await, hello("gap", 1)).await.unwrap();
        gap.send(&batch(3, &[t], &[5])).await;
        let status = gap.refused().await;
        assert_eq!(status.code(), Code::InvalidArgument);
        assert!(status.message().contains("nothing says what became"), "{status}");
        let mut gap = Agent::join(daemon.connect().await, hello("gap", 1)).await.unwrap();
        let dropped = v1::Dropped { frames: 2, from_ms: t - 9, until_ms: t - 1, reason: "spool-full".into() };
        gap.send(&ebbtide_proto::frame::Batch { dropped: Some(dropped), ..batch(3, &[t], &[5]) }).await;
        gap.acked(3).await.unwrap();
        gap.send(&batch(4, &[t + year], &[6])).await;
        let ack = gap.acked(4).await.unwrap();
        assert_eq!((ack.refused, ack.reason.as_str()), (1, "its time is far off"));
        let nonsense = v1::Frame { seq: 5, first_ms: 1, columns: vec![9], values: vec![1], ..Default::default() };
        gap.send_raw(Kind::Frames(pack(vec![nonsense], 1))).await;
        assert!(gap.refused().await.message().contains("not defined"));
        let mut swell = Agent::join(daemon.connect().await, hello("gap", 1)).await.unwrap();
        let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 3).unwrap();
        let body = Some(v1::frame_batch::Body::Zstd(bomb));
        swell.send_raw(Kind::Frames(v1::FrameBatch { body })).await;
        assert_eq!(swell.refused().await.code(), Code::ResourceExhausted);
        let mut large = Agent::join(daemon.connect().await, hello("gap", 1)).await.unwrap();
        let body = Some(v1::frame_batch::Body::Zstd(vec![7; 2 << 20]));
        large.send_raw(Kind::Frames(v1::FrameBatch { body })).await;
        assert!(matches!(large.refused().await.code(), Code::OutOfRange | Code::ResourceExhausted));
        let full = refused(&daemon, hello("fourth", 1)).await;
        assert_eq!(full.code(), Code::ResourceExhausted);
        assert!(full.message().contains("limits.nodes"), "{full}");

        // the first is unharmed, and everything was counted
        first.send(&batch(2, &[t + 1000], &[10_000_005])).await;
        first.acked(2).await.unwrap();
        let status = fleet.get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        let count = |reason: &str| status.refusals.iter().find(|r| r.reason == reason).unwrap().count;
        let counted = ["clock", "version", "malformed", "two-agents", "protocol", "quota"].map(count);
        assert_eq!(counted, [3, 1, 2, 1, 1, 2]);
        assert_eq!(status.dropped_frames, 2);
        daemon.stop().await;
    });
}

#[test]
fn certificates_decide_who_may_do_what() {
    run(async {
        let daemon = Daemon::encrypted(|_| {}).await;
        // a node streams under its own name alone
        let channel = daemon.connect_as("ebbtide://node/edge1", None).await.unwrap();
        assert!(Agent::join(channel.clone(), hello("edge1", 1)).await.is_ok());
        let other = Agent::join(channel.clone(), hello("edge2", 1)).await.err().unwrap();
        assert_eq!(other.code(), Code::PermissionDenied);
        assert!(other.message().contains("edge1") && other.message().contains("edge2"), "{other}");
        // and may do nothing else
        let asked = FleetClient::new(channel).list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
        assert_eq!(asked.code(), Code::Unauthenticated);
        // an operator doesn't stream
        let viewer = daemon.connect_as("ebbtide://operator/viewer/alice", None).await.unwrap();
        let streamed = Agent::join(viewer.clone(), hello("alice", 1)).await.err().unwrap();
        assert_eq!(streamed.code(), Code::Unauthenticated);
        // roles
        let status = FleetClient::new(viewer.clone()).get_status(v1::GetStatusRequest {}).await.unwrap().into_inner();
        assert_eq!(status.your_role, Role::Viewer.as_str());
        let denied = EnrolmentClient::new(viewer).create_token(v1::CreateTokenRequest::default()).await.unwrap_err();
        assert_eq!(denied.code(), Code::PermissionDenied);
        assert!(denied.message().contains("alice has role viewer, this needs admin"), "{denied}");
        // nobody without a certificate, nor with one of somebody else's authority
        let anonymous = daemon.connect_with(None).await.unwrap();
        let asked = FleetClient::new(anonymous.clone()).list_nodes(v1::ListNodesRequest::default()).await.unwrap_err();
        assert_eq!(asked.code(), Code::Unauthenticated);
        let streamed = Agent::join(anonymous, hello("edge1", 1)).await.err().unwrap();
        assert!(streamed.message().contains("ebbtide-agent join"), "{streamed}");
        let (foreign, _) = Authority::generate(now_ms()).unwrap();
        let outcome = match daemon.connect_as("ebbtide://operator/admin/eve", Some(&foreign)).await {
            // TLS 1.3 tells the client only after the handshake
            Ok(channel) => FleetClient::new(channel).list_nodes(v1::ListNodesRequest::default()).await.map(|_| ()),
            Err(_) => Err(Status::unavailable("no connection")),
        };
        assert!(outcome.is_err());
        daemon.stop().await;
    });
}

#[test]
fn a_token_is_worth_one_certificate() {
    run(async {
        let daemon = Daemon::encrypted(|_| {}).await;
        let admin = daemon.connect_as("ebbtide://operator/admin/root", None).await.unwrap();
        let mut admin = EnrolmentClient::new(admin);
        let ask = v1::CreateTokenRequest { node: "edge7".into(), ttl_ms: 60_000 };
        let made = admin.create_token(ask).await.unwrap().into_inner();
        assert!(made.token.ends_with(&daemon.authority.as_ref().unwrap().fingerprint()), "{}", made.token);

        let key = rcgen::KeyPair::generate().unwrap();
        let request = rcgen::CertificateParams::default().serialize_request(&key).unwrap();
        let join = |node: &str, token: &str| v1::JoinRequest {
            token: token.to_owned(),
            node: node.to_owned(),
            csr_der: request.der().to_vec(),
        };
        let mut stranger = EnrolmentClient::new(daemon.connect_with(None).await.unwrap());
        let wrong = stranger.join(join("edge8", &made.token)).await.unwrap_err();
        assert_eq!(wrong.code(), Code::PermissionDenied);
        let joined = stranger.join(join("edge7", &made.token)).await.unwrap().into_inner();
        let again = stranger.join(join("edge7", &made.token)).await.unwrap_err();
        assert!(again.message().contains("used already"), "{again}");

        // the certificate is good for that node
        let own =
            ebbtide_fleet::pki::tls::Credentials::from_pem("joined", &joined.certificate_pem, &key.serialize_pem());
        let channel = daemon.connect_with(Some(own.unwrap())).await.unwrap();
        assert!(Agent::join(channel, hello("edge7", 1)).await.is_ok());
        let tokens = admin.list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens;
        assert_eq!((tokens[0].used_by.as_str(), tokens[0].created_by.as_str()), ("edge7", "root"));
        daemon.stop().await;
    });
}

#[test]
fn bytes_that_are_no_grpc_harm_nobody() {
    run(async {
        use tokio::io::AsyncWriteExt as _;
        let daemon = Daemon::plain(|_| {}).await;
        let mut agent = Agent::join(daemon.connect().await, hello("edge1", 1)).await.unwrap();
        let mut seed = 1u64;
        for _ in 0..200 {
            let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
            for _ in 0..200 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push((seed >> 33) as u8);
            }
            let from = if seed & 1 == 0 { 0 } else { 24 };
            let mut stream = tokio::net::TcpStream::connect(daemon.at.grpc).await.unwrap();
            drop(stream.write_all(&bytes[from..]).await);
        }
        agent.send(&batch(1, &[now_ms()], &[5])).await;
        agent.acked(1).await.unwrap();
        daemon.stop().await;
    });
}
