//! Saying a thing about an address at most once a minute.
//!
//! A port scan or a misconfigured proxy must not fill the log. The table is bounded: when a flood of addresses fills
//! it, addresses whose minute is over are forgotten, and if there is none the newest are not logged at all.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Addresses remembered at one time.
const MAX_ADDRESSES: usize = 1024;
/// Between two lines about one address.
const PAUSE: Duration = Duration::from_secs(60);

/// When each address was last spoken of.
#[derive(Debug, Default)]
pub struct Quiet(Mutex<HashMap<IpAddr, Instant>>);

impl Quiet {
    /// Whether this address may be logged now; if so, it may not for the next minute.
    pub fn is_news(&self, address: IpAddr) -> bool {
        let now = Instant::now();
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen
            .get(&address)
            .is_some_and(|last| now.duration_since(*last) < PAUSE)
        {
            return false;
        }
        if seen.len() >= MAX_ADDRESSES {
            seen.retain(|_, last| now.duration_since(*last) < PAUSE);
            if seen.len() >= MAX_ADDRESSES {
                return false;
            }
        }
        seen.insert(address, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_is_news_once_a_minute_and_a_flood_is_bounded() {
        let quiet = Quiet::default();
        let one = IpAddr::from([192, 0, 2, 1]);
        assert!(quiet.is_news(one));
        assert!(!quiet.is_news(one));
        tokio::time::advance(PAUSE).await;
        assert!(quiet.is_news(one));
        let flood = (0..5000_u32)
            .filter(|n| quiet.is_news(Ipv4Addr::from(*n).into()))
            .count();
        assert_eq!(flood, MAX_ADDRESSES - 1);
        tokio::time::advance(PAUSE).await;
        assert!(quiet.is_news(IpAddr::from([192, 0, 2, 2])));
    }
}
