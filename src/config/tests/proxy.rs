//! Listeners behind balancers.

use super::*;
use crate::proxy::ProxyProtocol;

const LISTEN: &str = "address = \"127.0.0.1:993\"\n";
const REQUIRED: &str = "address = \"127.0.0.1:993\"\nproxy_protocol = \"required\"\n";

/// [`BOTH`] with further lines in `[proxy]`, and others for its second listener.
fn with(proxy: &str, listen: &str) -> String {
    BOTH.replacen("[proxy]\n", &format!("[proxy]\n{proxy}\n"), 1)
        .replacen(LISTEN, listen, 1)
}

#[test]
fn a_header_is_read_where_it_is_required_and_nowhere_else() {
    let folder = Folder::new();
    let config = folder.read(&with("balancers = ['10.1.2.3/8', '::1']", REQUIRED), None);
    let config = config.unwrap();
    assert_eq!(config.warnings, [""; 0]);
    let proxy = config.front.unwrap().proxy.unwrap();
    let networks: Vec<_> = proxy.balancers.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "::1/128"]);
    let said: Vec<_> = proxy.listeners.iter().map(|it| it.proxy_protocol).collect();
    let balancer_tls = false;
    assert_eq!(
        said,
        [ProxyProtocol::Off, ProxyProtocol::Required { balancer_tls }]
    );
}

#[test]
fn a_header_without_those_who_may_write_it_is_a_problem() {
    let folder = Folder::new();
    let expected = "at least one network, as [\"10.0.0.1\"], for proxy_protocol = \"required\"";
    for (proxy, listen, problem) in [
        (
            "",
            REQUIRED,
            format!("proxy.balancers: missing (expected {expected})"),
        ),
        (
            "balancers = []",
            REQUIRED,
            format!(
                "proxy.balancers: nobody could connect (got an empty list; expected {expected})"
            ),
        ),
        (
            "balancers = ['10.0.0.0/33']",
            REQUIRED,
            "proxy.balancers[1]: bad value (got \"10.0.0.0/33\"; expected a network, as \"10.0.0.0/8\" or \"::1\")"
                .to_owned(),
        ),
        (
            "balancers = '10.0.0.1'",
            REQUIRED,
            "proxy.balancers: wrong type (got \"10.0.0.1\"; expected a list; each: a network, as \"10.0.0.0/8\" or \"::1\")"
                .to_owned(),
        ),
        (
            "",
            "address = \"127.0.0.1:993\"\nproxy_protocol = \"v2\"\n",
            "proxy.listen[2].proxy_protocol: bad value (got \"v2\"; expected \"off\" or \"required\")"
                .to_owned(),
        ),
        (
            "",
            "address = \"127.0.0.1:993\"\nbalancer_tls = true\n",
            "proxy.listen[2].balancer_tls: nobody says so here (got true; expected proxy_protocol = \"required\" beside it)"
                .to_owned(),
        ),
        (
            "balancers = ['10.0.0.1']",
            "address = \"127.0.0.1:993\"\nproxy_protocol = \"required\"\nbalancer_tls = true\n",
            "proxy.listen[2].balancer_tls: all clients have TLS here (got true and tls \"implicit\"; expected one of them to differ)"
                .to_owned(),
        ),
    ] {
        assert_eq!(folder.problems(&with(proxy, listen), None), [problem]);
    }
}

#[test]
fn what_a_header_risks_is_said() {
    let folder = Folder::new();
    let plain = |address: &str, more: &str| {
        format!(
            "address = \"{address}\"\n{more}\nprotocol = \"imap\"\n[[proxy.listen]]\naddress = \"127.0.0.1:994\"\n"
        )
    };
    let trusting = "proxy_protocol = \"required\"\nbalancer_tls = true\ntls = \"off\"";
    for (proxy, listen, warnings) in [
        (
            "balancers = ['10.0.0.1']",
            LISTEN.to_owned(),
            &["proxy.balancers: of no use: no listener has proxy_protocol = \"required\""][..],
        ),
        (
            "balancers = ['10.0.0.1', '::/0']",
            REQUIRED.to_owned(),
            &["proxy.balancers: everybody may say who they are"],
        ),
        (
            "balancers = ['10.0.0.1']",
            plain("10.0.0.9:1143", trusting),
            &[
                "proxy.listen[2].balancer_tls: passwords may travel in clear from the balancer to here: for a private wire",
            ],
        ),
        (
            "balancers = ['10.0.0.1']",
            plain("127.0.0.1:1143", trusting),
            &[],
        ),
        // Whoever has TLS at the balancer can log in.
        (
            "balancers = ['10.0.0.1']",
            plain(
                "127.0.0.1:1143",
                &format!("{trusting}\ncleartext = \"never\""),
            ),
            &[],
        ),
    ] {
        let text = with(proxy, &listen);
        let config = folder.read(&text, None);
        let config = config.unwrap_or_else(|problems| panic!("{text}: {problems}"));
        assert_eq!(config.warnings, warnings, "{text}");
    }
}
