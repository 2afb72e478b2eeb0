//! Several machines, each with a network of its own, as name spaces of this one: proxies behind balancers, and a site that grows from
//! one machine to many.
//!
//! | module | is |
//! | --- | --- |
//! | `machine` | a machine: name spaces, files, programs |
//! | `site` | networks, and the shipped samples at work on machines |
//! | `balancer` | what spreads clients over proxies |
//! | `balanced` | tests: a proxy is killed, drained, added |
//! | `growth` | a test: from one machine to many |
//! | `keepalived` | tests of `config/keepalived/` |
//! | `misfortunes` | a test: what breaks, and what is said of it |
//! | `replicas` | a test of `config/openldap/` |

mod balanced;
mod balancer;
mod growth;
mod keepalived;
mod machine;
mod misfortunes;
mod replicas;
mod site;
