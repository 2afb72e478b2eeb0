//! The files of `config/keepalived/`, by the programs that read them: keepalived's own check, sysctl, systemd-networkd.

use std::{fs, path::Path};

use super::site::{Side, Site};
use crate::lab::eventually;

const SAMPLES: [(&str, &str); 2] = [
    (
        "direct-return",
        include_str!("../../../config/keepalived/direct-return.conf"),
    ),
    ("nat", include_str!("../../../config/keepalived/nat.conf")),
];

/// A machine with the two cards that the samples name.
fn site() -> Site {
    let mut site = Site::new();
    let balancer = site.add("balancer", Side::Servers, 2);
    balancer.run("ip link add eth1 type veth peer name elsewhere");
    site
}

/// Whether keepalived takes a configuration, and what it says of it.
fn check(site: &Site, text: &str) -> (bool, String) {
    let machine = site.machine("balancer");
    machine.write("/etc/keepalived.conf", 0o644, None, text);
    let output = machine.ask(&[
        "keepalived",
        "--config-test",
        "--use-file=/etc/keepalived.conf",
    ]);
    let notes = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.success(), notes)
}

#[test]
fn keepalived_takes_the_samples_and_finds_mistakes() {
    let site = site();
    for (name, sample) in SAMPLES {
        let (taken, notes) = check(&site, sample);
        assert!(taken && notes.is_empty(), "{name}: {notes}");
        for (from, to, complaint) in [
            (
                "status_code 200",
                "status_cod 200",
                "Unknown keyword 'status_cod'",
            ),
            (
                "connect_port 9143",
                "connect_port 91430",
                "connect_port '91430'",
            ),
            (
                "lvs_sched wlc",
                "lvs_sched wls",
                "Invalid lvs_scheduler 'wls'",
            ),
            ("    }\\\n}\n", "    }\\\n", "missing '}'"),
            ("interface eth0", "interface eth7", "eth7"),
            ("tcp 2400", "tcp -1", "-1"),
        ] {
            assert!(sample.contains(from), "{name} no longer has {from:?}");
            let (taken, notes) = check(&site, &sample.replace(from, to));
            assert!(!taken && notes.contains(complaint), "{name}, {to}: {notes}");
        }
    }
}

/// What the samples say fits what the fronts' sample says.
#[test]
fn the_samples_fit_the_fronts() {
    let proxy = include_str!("../../../config/proxy.toml");
    for (name, sample) in SAMPLES {
        let mut ports: Vec<&str> = sample
            .lines()
            .filter_map(|line| line.strip_prefix("$PORT="))
            .collect();
        ports.sort_unstable();
        assert_eq!(ports, ["110", "143", "993", "995"], "{name}");
        for port in ports {
            assert!(proxy.contains(&format!("\"0.0.0.0:{port}\"")), "{port}");
        }
        assert!(proxy.contains("#front = \"127.0.0.1:9143\""));
        assert!(proxy.contains("#idle_timeout = \"35m\""));
        assert!(sample.contains("lvs_timeouts tcp 2400 ") && 2400 > 35 * 60);
    }
    // The other balancer keeps a connection for as long since it was told of it.
    let balancer = include_str!("../../../config/keepalived/balancer-sysctl.conf");
    let every = "\nnet.ipv4.vs.sync_refresh_period = 240\n";
    assert!(balancer.contains(every) && 2400 > 35 * 60 + 240);
    assert!(balancer.contains("\nnet.ipv4.vs.sync_threshold = 3 0\n"));
}

#[test]
fn settings_of_proxies_and_balancers_are_taken() {
    let mut site = site();
    let machine = site.machine("balancer");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/keepalived");
    for name in ["proxy-sysctl.conf", "balancer-nat-sysctl.conf"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        machine.write("/etc/sysctl.d/60-pigeonair.conf", 0o644, None, &text);
        machine.run("sysctl -q -p /etc/sysctl.d/60-pigeonair.conf");
    }
    let values = machine.run(
        "cd /proc/sys/net/ipv4
        cat conf/all/arp_ignore conf/all/arp_announce ip_forward",
    );
    assert_eq!(values, "1\n2\n1\n");
    // The address is the one that the balancers' sample has.
    let address = "10.0.0.80";
    let (_, direct) = SAMPLES[0];
    assert!(direct.contains(&format!("$VIP={address}\n")));
    for name in ["proxy-vip.network", "proxy-vip.interfaces"] {
        let text = fs::read_to_string(folder.join(name)).unwrap();
        assert!(text.contains(&format!("{address}/32\n")), "{name}");
    }
    let network = fs::read_to_string(folder.join("proxy-vip.network")).unwrap();
    machine.run(
        "mkdir -p /etc/systemd/network /run/systemd/netif
        chown systemd-network: /run/systemd/netif
        # As in a container, where no udev tells when a card is there.
        mount -t sysfs -o ro sysfs /sys",
    );
    let path = "/etc/systemd/network/10-pigeonair-vip.network";
    machine.write(path, 0o644, None, &network);
    let daemon = "/lib/systemd/systemd-networkd";
    site.start("balancer", "networkd", &[daemon]);
    eventually("networkd gives the loopback the common address", || {
        let addresses = site.machine("balancer").run("ip -br address show lo");
        addresses.contains(&format!(" {address}/32 "))
    });
}
