//! Over a real link: dialled, proven, opened for mail, under TLS.

use std::net::Ipv4Addr;

use tokio::net::TcpListener;

use super::*;
use crate::{
    link::{AdmitSettings, Admitted, Admitter, DialSettings, Dialer, Gate, GateParts, NodeKey},
    names::{NodeName, Service},
    nodes::{self, Node},
    proto::link::Purpose,
    secret::Key,
};

fn gate(lab: &Lab) -> Gate {
    let admit = AdmitSettings {
        node: NodeName::parse("node1").unwrap(),
        keys: vec![NodeKey {
            id: KeyId::parse("proxy1").unwrap(),
            key: Key::new([7; 32]),
            services: vec![Service::Mailstore],
            from: Vec::new(),
            not_after: None,
        }],
        max_unproven: 16,
        prove_timeout: PATIENCE,
        idle_limit: PATIENCE,
    };
    Gate::new(GateParts {
        from: vec!["127.0.0.0/8".parse().unwrap()],
        peers: Vec::new(),
        admitter: Admitter::new(admit, lab.metrics.clone()).unwrap(),
        metrics: lab.metrics.clone(),
        tasks: lab.tasks.clone(),
    })
}

#[tokio::test]
async fn a_link_brings_one_message_after_the_other() {
    let lab = Lab::new();
    let mailstore = lab.mailstore_with(|_| {});
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serve = move |admitted: Admitted, permit| {
        let mailstore = mailstore.clone();
        async move {
            let Purpose::Mail(context) = admitted.purpose else {
                panic!("not mail")
            };
            let Admitted {
                stream,
                key_id,
                seal,
                ..
            } = admitted;
            Box::pin(mailstore.serve(stream, context, key_id, seal, permit)).await;
        }
    };
    let listen = gate(&lab).listen(listener, || true, serve);
    lab.tasks.spawn("listener", listen);
    let node = Node {
        name: NodeName::parse("node1").unwrap(),
        hosts: Vec::new(),
        address: Endpoint::parse(&address).unwrap(),
        source: None,
        key_id: KeyId::parse("proxy1").unwrap(),
        key: Key::new([7; 32]),
        tls: true,
        probe_login: None,
    };
    let nodes = nodes::Settings {
        nodes: vec![node.clone()],
        default: None,
    };
    let settings = DialSettings {
        ready: 0,
        ..DialSettings::default()
    };
    let dialer = Dialer::new(&nodes, settings, lab.metrics.clone(), lab.tasks.clone()).unwrap();
    let context = MailContext {
        session: SessionId::parse("opener").unwrap(),
    };
    let work = async {
        let stream = dialer.open_mail(&node, &context).await.unwrap();
        let mut front = greet(stream).await.unwrap();
        for _ in 0..2 {
            let heard = send(&mut front, envelope(&["u1@a.example"]), &MAIL.repeat(2000)).await;
            assert_eq!(heard, [STORED]);
        }
        // Idle: closed at once when the process stops.
        assert_eq!(lab.tasks.drain(PATIENCE).await, 0);
    };
    timeout(PATIENCE, Box::pin(work))
        .await
        .expect("out of patience");
    assert_eq!(lab.mail("u1").len(), 2);
}
