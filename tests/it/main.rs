//! Tests of the whole: real slapd, real Dovecot, the built program as front and nodes, and a client that says what a
//! test tells it to.
//!
//! Each test starts a cluster of its own on a loopback address of its own, so tests run side by side; how that is
//! done stands in [`lab`]. They need root, because storage nodes become their users, and the packages of `make deps`.
//!
//! | module | shows |
//! | --- | --- |
//! | `accounts` | who is served: added while running, many uids, uids and homes that are refused |
//! | `attacks` | flaws that were published of other servers, each tried on this one by name |
//! | `balancer` | the PROXY protocol: HAProxy in front, and whoever says to be somebody else |
//! | `browser` | is no test: a headless Chromium for those that need one |
//! | `commands` | who is on, and what administrators do about it: kick, hold, drain, flush |
//! | `defence` | guessing, and too many connections: who is held and who is not, and what fail2ban reads |
//! | `descriptors` | front and node without a file descriptor left |
//! | `directory` | LDAP under TLS, and password hashes that other programs made |
//! | `failures` | what a client hears when a node or the directory is away, silent, or does not trust us |
//! | `fidelity` | a scripted session through the proxy is, octet by octet, what it is at the real server |
//! | `flood` | ten thousand connections that mean no good, and somebody who just logs in |
//! | `hostile` | whatever a client says before it has logged in, as transcripts; TLS that is begun and not carried out |
//! | `link_attacks` | attacks on links, each by its name |
//! | `links` | whoever comes to a link port and is no proxy, or one that may not |
//! | `logins` | every way to log in, on every channel, at every kind of node |
//! | `mail` | mail by SMTP through Postfix and the delivery role to the mailbox at home |
//! | `faults` | mail when processes, links and disks fail in the middle |
//! | `nets` | machines in name spaces: behind balancers, and from one machine to many |
//! | `node_health` | nodes that are killed, frozen, or dead behind a living acceptor: who waits, who knows, who is served |
//! | `outside` | metrics, health, and the log's line of a session |
//! | `package` | the Debian package: installed, removed, and its units under a real systemd |
//! | `policy` | whom a policy server refuses or delays, and what it hears of everybody |
//! | `pop3` | POP3 from a client to the mailbox at home, blanks included |
//! | `prometheus` | rules, alerts and dashboard: by promtool, and by a Prometheus that scrapes a cluster |
//! | `refusals` | credentials that are wrong or not wanted, and what an eavesdropper or injector gets |
//! | `reload` | another configuration while people are logged in: taken whole or not at all, and nobody notices |
//! | `rights` | the capabilities that the processes keep |
//! | `seeing` | metrics by Prometheus' own checker; the status page in a browser |
//! | `sessions` | after login it is bytes: large messages, IDLE, early commands, half-closed connections |
//! | `single` | one machine without LDAP |
//! | `soak` | everything that administrators do and that fails, at random under load, for a while |
//! | `stopping` | SIGTERM: what goes on, what is told, what is cut |
//! | `talk` | what a client must not do before it has logged in |
//! | `tls` | certificates that are replaced, tickets that outlive a front, clients with certificates of their own |
//! | `upgrade` | processes that take the place of running ones under a stream of logins and deliveries |
//! | `tools` | programs that people use: each in every TLS mode it has, contents compared |

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test says that something is wrong by panicking, and shows logs on standard error"
)]

mod accounts;
mod attacks;
mod balancer;
mod browser;
mod changes;
mod client;
mod commands;
mod defence;
mod descriptors;
mod directory;
mod failures;
mod faults;
mod fidelity;
mod flood;
mod hostile;
mod lab;
mod link_attacks;
mod links;
mod logins;
mod mail;
mod nets;
mod node_health;
mod outside;
mod package;
mod policy;
mod pop3;
mod prometheus;
mod refusals;
mod reload;
mod rights;
mod seeing;
mod sessions;
mod single;
mod smtp;
mod soak;
mod stopping;
mod talk;
mod tls;
mod tools;
#[path = "../transcripts/mod.rs"]
mod transcripts;
mod upgrade;
