//! Outages of nodes as a front goes through them: who dials, who waits, and what is known by whom.

use super::*;

/// A front that probes nobody who is up.
fn front(address: Address) -> Front {
    Front::new(node_at(address, false), dial_settings())
}

/// One that gives up soon on a node that says nothing.
fn impatient(address: Address) -> Front {
    let settings = DialSettings {
        prove_timeout: SHORT,
        ..dial_settings()
    };
    Front::new(node_at(address, false), settings)
}

fn unprobed() -> HealthSettings {
    dial_settings().health
}

impl Front {
    fn tries(&self) -> u64 {
        let results = ["ok", "unreachable", "timed-out"];
        let counts = results.map(|result| {
            let counter = &self.metrics.node_connects;
            counter.with_label_values(&["node1", result]).get()
        });
        counts.iter().sum()
    }

    fn probes(&self, result: &str) -> u64 {
        let counter = &self.metrics.node_probes;
        counter.with_label_values(&["node1", result]).get()
    }

    fn state(&self) -> NodeState {
        self.dialer.health()[0].state
    }

    fn is_up(&self) -> bool {
        self.metrics.node_up.with_label_values(&["node1"]).get() == 1
    }
}

/// A node that takes one link after the other, and a session over each.
fn serve(tasks: &Tasks, listener: TcpListener) {
    let admitter = Admitter::new(node_settings(), Metrics::new().unwrap()).unwrap();
    tasks.spawn("node", async move {
        loop {
            let (stream, peer) = listener.accept().await.unwrap();
            let admitted = admitter.admit(Stream::Tcp(stream), false, Some(peer.ip()));
            if let Ok(mut admitted) = admitted.await {
                let verdict = admitted.verdict(&ready());
                admitted.stream.write_all(&verdict).await.unwrap();
            }
        }
    });
}

#[tokio::test]
async fn a_node_that_is_down_is_dialled_by_the_prober_alone() {
    let (listener, address) = listen().await;
    drop(listener);
    let front = front(address);
    let other = front.dialer.for_worker(None);
    for _ in 0..3 {
        assert!(matches!(front.fail().await, LinkError::Unreachable(_)));
    }
    assert!(!front.is_up());
    let mail = MailContext {
        session: SessionId::from_random([6; 12]),
    };
    for _ in 0..100 {
        // Another worker knows as well.
        let session = other.open(&front.node, &context()).await;
        assert!(matches!(session, Err(LinkError::Down { .. })));
        let message = front.dialer.open_mail(&front.node, &mail).await;
        assert!(matches!(message, Err(LinkError::Down { .. })));
    }
    let name = &front.node.name;
    assert!(front.dialer.refusal_of_mail(name).is_some());
    let (tries, probes) = (front.tries(), front.probes("unreachable"));
    assert!(tries <= 3 + probes + 1, "{tries} tries, {probes} probes");
}

#[tokio::test]
async fn it_is_found_out_that_a_node_is_back_and_no_login_fails_for_that() {
    let (listener, address) = listen().await;
    let Address::Tcp { port, .. } = address else {
        panic!("no port")
    };
    drop(listener);
    let front = front(address);
    for _ in 0..3 {
        front.fail().await;
    }
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .unwrap();
    serve(&front.tasks, listener);
    until(|| front.is_up()).await;
    assert_eq!(front.state(), NodeState::Rising);
    for _ in 0..20 {
        front.open().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_says_nothing_is_known_after_three_logins() {
    let (listener, address) = listen().await;
    let front = impatient(address);
    for _ in 0..3 {
        let error = front.fail().await;
        assert!(matches!(error, LinkError::TimedOut { step: Step::Hello }));
    }
    assert!(matches!(front.fail().await, LinkError::Down { .. }));
    drop(listener);
}

#[tokio::test]
async fn nodes_are_probed_without_a_login() {
    let mut server = Server::start(Over::Tls, node_settings()).await;
    let settings = DialSettings {
        health: HealthSettings {
            probe_every: Some(SHORT),
            ..HealthSettings::default()
        },
        ..dial_settings()
    };
    let front = Front::new(server.node(), settings);
    until(|| front.probes("ok") >= 3).await;
    // To the node it is a link that was not needed.
    assert!(server.ended().await.unwrap_err().is_ordinary());
    assert!(front.dialer.health()[0].last_probe.is_some());
    assert_eq!(front.ready(), 0);
}

#[tokio::test]
async fn probers_end_with_the_last_dialer() {
    let (_listener, address) = listen().await;
    let front = front(address);
    let worker = front.dialer.for_worker(None);
    let health = Arc::downgrade(&worker.dial(&front.node.name).health);
    drop(front);
    tokio::task::yield_now().await;
    assert!(health.upgrade().is_some());
    drop(worker);
    until(|| health.upgrade().is_none()).await;
}

#[tokio::test]
async fn a_successor_knows_what_was_known_of_the_same_nodes() {
    let (listener, address) = listen().await;
    drop(listener);
    let front = front(address);
    for _ in 0..3 {
        front.fail().await;
    }
    let table = |node: &Node| nodes::Settings {
        nodes: vec![node.clone()],
        default: None,
    };
    let after = |before: &Dialer, table: &nodes::Settings| {
        let (metrics, tasks) = (front.metrics.clone(), Tasks::new());
        let dialer = Dialer::after(Some(before), table, dial_settings(), metrics, tasks).unwrap();
        dialer.begin(Some(before));
        dialer
    };
    let same = after(&front.dialer, &table(&front.node));
    let error = same.open(&front.node, &context()).await;
    assert!(matches!(error, Err(LinkError::Down { .. })));
    assert!(!front.is_up());
    // Another key may be the right one.
    let other = Node {
        key: Key::new([8; 32]),
        ..front.node.clone()
    };
    let other = after(&same, &table(&other));
    assert_eq!(other.health()[0].state, NodeState::Up);
    assert!(front.is_up());
    // What is gone is not shown.
    let gone = Node {
        name: NodeName::parse("node2").unwrap(),
        ..front.node.clone()
    };
    let gone = after(&other, &table(&gone));
    assert_eq!(gone.health().len(), 1);
    let text = front.metrics.render();
    assert!(text.contains("pigeonair_node_up{node=\"node2\"} 1"));
    assert!(
        !text.contains("pigeonair_node_up{node=\"node1\"}"),
        "{text}"
    );
}

/// Who was there before the key changed goes on with the old one, which the node does not take any more.
#[tokio::test]
async fn what_is_found_out_with_a_key_from_before_is_not_shown() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let old = Node {
        key: Key::new([8; 32]),
        ..server.node()
    };
    let front = Front::new(old, dial_settings());
    let table = nodes::Settings {
        nodes: vec![server.node()],
        default: None,
    };
    let (metrics, tasks) = (front.metrics.clone(), front.tasks.clone());
    let before = Some(&front.dialer);
    let next = Dialer::after(before, &table, dial_settings(), metrics, tasks).unwrap();
    next.begin(before);
    let note = |dialer: &Dialer| {
        let unreachable = LinkError::Unreachable(std::io::ErrorKind::Other.into());
        let health = &dialer.dial(&front.node.name).health;
        health.note(&Err::<(), _>(unreachable), None);
    };
    (0..3).for_each(|_| note(&front.dialer));
    assert_eq!(front.state(), NodeState::Down);
    assert_eq!(next.health()[0].state, NodeState::Up);
    assert!(front.is_up());
    let node = server.node();
    let session = context();
    let (opened, _) = tokio::join!(next.open(&node, &session), server.answer(ready(), b""));
    opened.unwrap();
    // What is found out with the new one is.
    (0..3).for_each(|_| note(&next));
    assert!(!front.is_up());
}

/// A node closes to one address when half of its places for unproven peers are taken from there, by default 128.
#[tokio::test]
async fn a_burst_of_logins_does_not_crowd_a_node() {
    for over in [Over::Plain, Over::Tls] {
        let settings = AdmitSettings {
            max_unproven: 256,
            ..node_settings()
        };
        let mut server = Server::start(over, settings).await;
        let front = Front::new(server.node(), dial_settings());
        let burst = 300;
        let (sender, mut opened) = mpsc::unbounded_channel();
        for _ in 0..burst {
            let (dialer, node, sender) = (front.dialer.clone(), front.node.clone(), sender.clone());
            front.tasks.spawn("login", async move {
                let _ = sender.send(dialer.open(&node, &context()).await);
            });
        }
        for _ in 0..burst {
            server.answer(ready(), b"").await;
            patiently(opened.recv()).await.unwrap().unwrap();
        }
        assert_eq!(server.handshakes("crowded"), 0);
    }
}

/// They have waited for their turn while others waited for the node.
#[tokio::test]
async fn whoever_waits_for_a_turn_is_told_when_the_node_is_down() {
    let (listener, address) = listen().await;
    let front = impatient(address);
    let (sender, mut failed) = mpsc::unbounded_channel();
    let crowd = 300;
    for _ in 0..crowd {
        let (dialer, node, sender) = (front.dialer.clone(), front.node.clone(), sender.clone());
        front.tasks.spawn("login", async move {
            let _ = sender.send(dialer.open(&node, &context()).await);
        });
    }
    let mut told = 0;
    for _ in 0..crowd {
        match patiently(failed.recv()).await.unwrap() {
            // Who comes once one has failed is one of too many.
            Err(LinkError::Crowded { .. } | LinkError::Down { .. }) => told += 1,
            Err(LinkError::TimedOut { step: Step::Hello }) => {}
            other => panic!("{other:?}"),
        }
    }
    // Some may have had their turn while that was found out.
    assert!(told > crowd / 2, "{told}");
    drop(listener);
}

/// A front on a plain link whose first failure puts the node down, with one link begun, its keeper at work, and the node's end.
async fn with_one_begun(listener: &TcpListener, address: Address) -> (Front, TcpStream) {
    let settings = DialSettings {
        ready: 1,
        health: HealthSettings {
            down_after: 1,
            ..unprobed()
        },
        ..dial_settings()
    };
    let front = Front::new(node_at(address, false), settings);
    let dial = front.dialer.dial(&front.node.name);
    dial.pool.refill(|| dial.begin());
    let (begun, _) = listener.accept().await.unwrap();
    front
        .tasks
        .spawn("keeper", async move { dial.keep().await });
    (front, begun)
}

/// As when the node is started anew, so fast that no login has noticed.
#[tokio::test]
async fn a_begun_link_whose_node_has_closed_it_does_not_put_the_node_down() {
    let (listener, address) = listen().await;
    let (front, begun) = with_one_begun(&listener, address).await;
    let reset = socket2::SockRef::from(&begun).set_linger(Some(Duration::ZERO));
    reset.unwrap();
    drop(begun);
    until(|| front.tries() == 1).await;
    assert_eq!(front.dials(), 0);
    assert_eq!(front.state(), NodeState::Up);
}

/// They are dead, if it was the node's; a new one shows how it does now.
#[tokio::test]
async fn links_begun_before_an_outage_are_dropped_behind_it() {
    let (listener, address) = listen().await;
    let (front, mut begun) = with_one_begun(&listener, address).await;
    // It is down and back again before the link is ripe.
    let dial = front.dialer.dial(&front.node.name);
    let unreachable = LinkError::Unreachable(std::io::ErrorKind::Other.into());
    dial.health.note(&Err::<(), _>(unreachable), None);
    assert!(!front.is_up());
    serve(&front.tasks, listener);
    until(|| front.is_up()).await;
    let mut heard = Vec::new();
    patiently(begun.read_to_end(&mut heard)).await.unwrap();
    assert!(heard.is_empty());
    // The prober's, and the one in its place.
    until(|| front.handshakes("ok") == 2).await;
    assert_eq!(front.ready(), 1);
}

/// A node that is slow over a plain link, at which a crowd arrives in the moment of its return.
#[tokio::test]
async fn a_slow_start_opens_four_at_one_time() {
    let mut server = Server::start(Over::Plain, node_settings()).await;
    let settings = DialSettings {
        health: HealthSettings {
            slow_start: Duration::from_secs(3600),
            down_after: 1,
            ..unprobed()
        },
        ..dial_settings()
    };
    let front = Front::new(server.node(), settings);
    let dial = front.dialer.dial(&front.node.name);
    dial.health.note(
        &Err::<(), _>(LinkError::Unreachable(std::io::ErrorKind::Other.into())),
        None,
    );
    until(|| front.is_up()).await;
    let crowd = 20;
    let opened = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for _ in 0..crowd {
        let (dialer, node, opened) = (
            front.dialer.clone(),
            front.node.clone(),
            Arc::clone(&opened),
        );
        front.tasks.spawn("login", async move {
            dialer.open(&node, &context()).await.unwrap();
            opened.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        });
    }
    let mut inside = Vec::new();
    for number in 0..crowd {
        if inside.len() < 4 {
            inside.push(server.opened().await);
        }
        // Nobody else has come, though everybody had the time to.
        if inside.len() == 4 {
            for _ in 0..1000 {
                tokio::task::yield_now().await;
            }
            assert!(server.ended.try_recv().is_err());
        }
        let mut first: Admitted = inside.remove(0);
        let verdict = first.verdict(&ready());
        first.stream.write_all(&verdict).await.unwrap();
        until(|| opened.load(std::sync::atomic::Ordering::Relaxed) > number).await;
    }
}
