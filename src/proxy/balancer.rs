//! A listener behind balancers: who the client is stands in the header that the balancer writes first.
//!
//! ```text
//! accept ─> from a listed network? ─> header, whole and in time ─> the client's octets, untouched
//!                    └──────────────────────┴──> closed without a word, counted
//! ```
//!
//! A listener reads a header or it does not; what a client sends never decides that. From the header on, its addresses
//! are the connection's, for everything: log, limits, directory, node. Of a connection that the balancer makes on
//! behalf of nobody, as its health checks, they are the balancer's own.
//!
//! What the header says of TLS counts where the listener trusts it, and then as TLS of our own: of a version that we
//! would speak ourselves.
//!
//! Limits: the header's own length, and a few seconds, which are part of the time for a login. Who fails is logged at
//! most once per address and minute; a connection that ends before its first octet is a health check, and nobody's
//! fault.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    time::{error::Elapsed, timeout},
};

use crate::{
    metrics::Metrics,
    names::{BalancerAddr, ClientAddr, LocalAddr},
    net::{Quiet, tls::Agreed},
    outcome::{Balancer, Report},
    proto::proxy_header::{Decoder, HeaderError, Introduction, Tls},
};

/// The longest that a balancer may take: it has the header when it connects.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// One look at what has arrived: a header fits, unless it is full of TLVs.
const LOOK_BYTES: usize = 512;
/// Versions of TLS that count.
const VERSIONS: [&str; 2] = ["TLSv1.2", "TLSv1.3"];
/// What stands for a cipher that the balancer does not say.
const NO_CIPHER: &str = "unknown";

/// The balancers that may say who a client is. Clones share what the log has heard.
#[derive(Clone, Debug)]
pub struct Balancers {
    from: Arc<[IpNet]>,
    metrics: Metrics,
    quiet: Arc<Quiet>,
}

/// Who a connection is from.
#[derive(Debug)]
pub(super) struct Introduced {
    pub(super) client: ClientAddr,
    pub(super) local: LocalAddr,
    /// TLS between client and balancer, where it counts.
    pub(super) tls: Option<Agreed>,
    pub(super) balancer: Option<Balancer>,
}

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
enum NoHeader {
    #[error("the connection ended before its PROXY header was whole")]
    Ended { began: bool },
    #[error("no PROXY header: {0}")]
    Io(#[from] io::Error),
    #[error("no whole PROXY header in time")]
    Late(#[from] Elapsed),
    #[error("no PROXY header: what came {0}")]
    Wrong(#[from] HeaderError),
}

impl Balancers {
    /// Those that connect from these networks.
    pub fn new(from: &[IpNet], metrics: Metrics) -> Self {
        Self {
            from: from.into(),
            metrics,
            quiet: Arc::default(),
        }
    }

    /// Whether an address is one of theirs; if not, that is counted and logged.
    pub(super) fn include(&self, address: IpAddr) -> bool {
        let is_listed = self.from.iter().any(|network| network.contains(&address));
        if !is_listed {
            self.turn_away("balancer", address, "address is not in [proxy] balancers");
        }
        is_listed
    }

    /// Reads the header of a balancer's connection, and nothing behind it; none when there is no good one, which is
    /// counted and logged.
    pub(super) async fn introduce(
        &self,
        stream: &mut TcpStream,
        balancer: SocketAddr,
        local: SocketAddr,
        trusts_tls: bool,
        limit: Duration,
    ) -> Option<Introduced> {
        let header = match timeout(limit.min(HEADER_TIMEOUT), read(stream)).await {
            Ok(header) => header,
            Err(late) => Err(late.into()),
        };
        let Introduction { addresses, id, tls } = match header {
            Ok(introduction) => introduction,
            Err(NoHeader::Ended { began: false }) => return None,
            Err(error) => {
                self.turn_away("header", balancer.ip(), &error.to_string());
                return None;
            }
        };
        let (client, local) = addresses.unwrap_or((ClientAddr(balancer), LocalAddr(local)));
        Some(Introduced {
            client,
            local,
            tls: tls.filter(|_| trusts_tls).and_then(agreed),
            balancer: Some(Balancer {
                address: BalancerAddr(balancer),
                id,
            }),
        })
    }

    fn turn_away(&self, word: &str, address: IpAddr, reason: &str) {
        let counter = &self.metrics.connections_shed;
        counter.with_label_values(&[word]).inc();
        if self.quiet.is_news(address) {
            tracing::warn!(peer = %address, reason, "connection refused");
        }
    }
}

impl Introduced {
    /// By itself: nobody stands between.
    pub(super) fn directly(client: SocketAddr, local: SocketAddr) -> Self {
        Self {
            client: ClientAddr(client),
            local: LocalAddr(local),
            tls: None,
            balancer: None,
        }
    }
}

/// The address that [`Cleartext::Loopback`](super::Cleartext) asks for: none when the octets come from further away
/// than the client, or when it is not known who the client is.
pub(super) fn nearness(report: &Report) -> Option<IpAddr> {
    let is_near = report.balancer.as_ref().is_none_or(|balancer| {
        let address = balancer.address.0;
        address.ip().is_loopback() && address != report.client.0
    });
    is_near.then(|| report.client.0.ip())
}

/// Looks at what has arrived, and reads what of it is the header.
async fn read(stream: &mut TcpStream) -> Result<Introduction, NoHeader> {
    let mut decoder = Decoder::default();
    let mut arrived = vec![0; LOOK_BYTES];
    loop {
        let count = stream.peek(&mut arrived).await?;
        let seen = arrived.get(..count).unwrap_or_default();
        if seen.is_empty() {
            let began = decoder.has_begun();
            return Err(NoHeader::Ended { began });
        }
        let (header, introduction) = decoder.take(seen)?;
        let header = arrived.get_mut(..header).unwrap_or_default();
        stream.read_exact(header).await?;
        if let Some(introduction) = introduction {
            return Ok(introduction);
        }
    }
}

/// The balancer's TLS in our own words; none of a version that does not count.
fn agreed(tls: Tls) -> Option<Agreed> {
    let version = VERSIONS
        .into_iter()
        .find(|version| *version == tls.version)?;
    let cipher = tls.cipher.unwrap_or_else(|| NO_CIPHER.to_owned());
    Some(Agreed { version, cipher })
}
