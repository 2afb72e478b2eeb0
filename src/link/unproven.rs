//! The places of peers that have not proven themselves.
//!
//! Whoever comes gets a place. Where none is left, somebody makes room: of the network that has most of them, the peer that
//! has waited longest; of strangers' networks first, from which nobody has proven himself lately. So networks with few places
//! keep them, and fronts, which need theirs for as long as a handshake takes, get in however many wait to no purpose. A network is an IPv4 address, or an IPv6 prefix of 64 bits, since that is
//! what one host has; peers of Unix sockets, whose uids were let in, are one network together.
//!
//! Limits: one network gets half of the places at most, but for Unix sockets; when it has these, its own first peer makes room.
//! [`MAX_KNOWN`] networks are no strangers. All else is kept of present peers alone. Nothing here fails.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

/// Bits of an IPv6 address that are a host's own.
const IPV6_HOST_BITS: u32 = 64;

/// Networks from which somebody has proven himself: more than there are fronts.
const MAX_KNOWN: usize = 256;

/// The quota of unproven peers.
#[derive(Debug)]
pub(super) struct Unproven {
    max: usize,
    present: Mutex<Present>,
}

/// None: all that come over Unix sockets.
type Network = Option<IpAddr>;

/// Peers of one network by when they came; who is taken out of here hears it.
type Waiting = BTreeMap<u64, oneshot::Sender<()>>;

/// Whether a network is a stranger's, how many it has, and its first.
type Rank = (bool, usize, Reverse<u64>, Network);

#[derive(Debug, Default)]
struct Present {
    next: u64,
    all: usize,
    networks: HashMap<Network, Waiting>,
    /// Last: of strangers', or if there are none of all, the network that has most, and of several the one whose first came first.
    ranks: BTreeSet<Rank>,
    /// When somebody proved himself last, counted as peers are.
    known: HashMap<Network, u64>,
}

/// A peer's place in the quota, until dropped.
#[derive(Debug)]
pub(super) struct Place<'a> {
    unproven: &'a Unproven,
    network: Network,
    number: u64,
    stays: oneshot::Receiver<()>,
}

// === impl Unproven ===

impl Unproven {
    pub(super) fn new(max: usize) -> Self {
        Self {
            max,
            present: Mutex::default(),
        }
    }

    /// A place for a peer from an address; from none on a Unix socket.
    pub(super) fn enter(&self, peer: Option<IpAddr>) -> Place<'_> {
        let network = peer.map(network);
        let mut present = self.lock();
        let count = present.networks.get(&network).map_or(0, Waiting::len);
        if network.is_some() && count >= self.max.div_ceil(2) {
            present.change(network, Waiting::pop_first);
        } else if present.all >= self.max
            && let Some((_, _, _, largest)) = present.ranks.last().copied()
        {
            present.change(largest, Waiting::pop_first);
        }
        let number = present.next;
        present.next = number.wrapping_add(1);
        let (sender, stays) = oneshot::channel();
        present.change(network, |waiting| waiting.insert(number, sender));
        Place {
            unproven: self,
            network,
            number,
            stays,
        }
    }

    /// Somebody from there has proven himself.
    pub(super) fn proved(&self, peer: Option<IpAddr>) {
        self.lock().know(peer.map(network));
    }

    /// Every change under the lock is whole, whoever panics.
    fn lock(&self) -> MutexGuard<'_, Present> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Present ===

impl Present {
    /// Changes who is there of a network, and keeps what is counted of it.
    fn change<T>(&mut self, network: Network, change: impl FnOnce(&mut Waiting) -> T) {
        let is_stranger = !self.known.contains_key(&network);
        let waiting = self.networks.entry(network).or_default();
        let before = waiting.len();
        self.ranks.remove(&rank(is_stranger, network, waiting));
        change(waiting);
        self.all = self
            .all
            .saturating_sub(before)
            .saturating_add(waiting.len());
        if waiting.is_empty() {
            self.networks.remove(&network);
        } else {
            self.ranks.insert(rank(is_stranger, network, waiting));
        }
    }

    /// A network is no stranger's any more; of too many, the one that was heard of longest ago is again.
    fn know(&mut self, network: Network) {
        let now = self.next;
        if let Some(when) = self.known.get_mut(&network) {
            *when = now;
            return;
        }
        if self.known.len() >= MAX_KNOWN
            && let Some((oldest, _)) = self.known.iter().min_by_key(|(_, when)| **when)
        {
            let oldest = *oldest;
            self.known.remove(&oldest);
            self.move_rank(oldest, true);
        }
        self.known.insert(network, now);
        self.move_rank(network, false);
    }

    fn move_rank(&mut self, network: Network, is_stranger: bool) {
        if let Some(waiting) = self.networks.get(&network) {
            self.ranks.remove(&rank(!is_stranger, network, waiting));
            self.ranks.insert(rank(is_stranger, network, waiting));
        }
    }
}

fn rank(is_stranger: bool, network: Network, waiting: &Waiting) -> Rank {
    let first = waiting.keys().next().copied().unwrap_or(0);
    (is_stranger, waiting.len(), Reverse(first), network)
}

fn network(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() >> IPV6_HOST_BITS << IPV6_HOST_BITS;
            Ipv6Addr::from_bits(network).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

// === impl Place ===

impl Place<'_> {
    /// Until the place is needed for another.
    pub(super) async fn sent_away(&mut self) {
        // Nothing is ever sent: the other half is dropped.
        let _ = (&mut self.stays).await;
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut present = self.unproven.lock();
        present.change(self.network, |waiting| waiting.remove(&self.number));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether the place is still its own.
    fn stays(place: &mut Place<'_>) -> bool {
        place.stays.try_recv() == Err(oneshot::error::TryRecvError::Empty)
    }

    fn enter<'u>(unproven: &'u Unproven, address: &str) -> Place<'u> {
        unproven.enter(Some(address.parse().unwrap()))
    }

    /// Which of these have still a place.
    fn which(places: &mut [Place<'_>]) -> Vec<bool> {
        places.iter_mut().map(stays).collect()
    }

    #[test]
    fn a_host_is_one_whatever_address_of_its_prefix_it_comes_from() {
        for [one, same, other] in [
            ["2001:db8::1", "2001:db8::ffff:0:0:2", "2001:db8:0:1::1"],
            ["192.0.2.1", "::ffff:192.0.2.1", "192.0.2.2"],
        ] {
            let unproven = Unproven::new(4);
            let mut places = [one, same, one, other, other].map(|it| enter(&unproven, it));
            assert_eq!(which(&mut places), [false, true, true, true, true], "{one}");
        }
    }

    #[test]
    fn who_has_most_makes_room_and_of_those_with_as_many_who_waits_longest() {
        let unproven = Unproven::new(6);
        let mut places: Vec<_> = ["10.0.0.1", "10.0.0.2", "10.0.0.2", "10.0.0.3", "10.0.0.3"]
            .iter()
            .map(|address| enter(&unproven, address))
            .collect();
        places.push(unproven.enter(None));
        assert!(which(&mut places).iter().all(|stays| *stays));
        for (address, expected) in [
            ("10.0.0.4", [true, false, true, true, true, true]),
            ("10.0.0.5", [true, false, true, false, true, true]),
            ("10.0.0.6", [false, false, true, false, true, true]),
            ("10.0.0.7", [false, false, false, false, true, true]),
        ] {
            places.push(enter(&unproven, address));
            assert_eq!(which(&mut places[..6]), expected, "{address}");
        }
        // Those that were sent away leave nothing behind, nor does anybody else.
        drop(places);
        let present = unproven.lock();
        assert_eq!(present.all, 0);
        assert!(present.networks.is_empty() && present.ranks.is_empty());
    }

    #[test]
    fn a_front_needs_a_place_for_no_longer_than_others_come_in_between() {
        let unproven = Unproven::new(16);
        let squatter = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        let mut squatters: Vec<_> = (0..1000)
            .map(|number| unproven.enter(Some(squatter(number))))
            .collect();
        let mut front = enter(&unproven, "192.0.2.1");
        for number in 1000..1015 {
            squatters.push(unproven.enter(Some(squatter(number))));
            assert!(stays(&mut front), "{number}");
        }
        // Of two that have half each, one makes room.
        let (unproven, mut squatters) = (Unproven::new(16), Vec::new());
        for number in 0..1000 {
            squatters.push(unproven.enter(Some(squatter(number % 2))));
        }
        let mut front = enter(&unproven, "192.0.2.1");
        for number in 0..1000 {
            squatters.push(unproven.enter(Some(squatter(number % 2))));
        }
        assert!(stays(&mut front));
    }

    #[test]
    fn a_front_that_has_proven_itself_keeps_its_places_among_strangers() {
        let unproven = Unproven::new(16);
        let stranger = |number: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + number));
        let front = Some(IpAddr::from([192, 0, 2, 1]));
        let mut strangers: Vec<_> = (0..16)
            .map(|it| unproven.enter(Some(stranger(it))))
            .collect();
        // Its first handshake needs a place like any other's.
        drop(unproven.enter(front));
        unproven.proved(front);
        let mut places: Vec<_> = (0..8).map(|_| unproven.enter(front)).collect();
        strangers.extend((16..100).map(|it| unproven.enter(Some(stranger(it)))));
        assert!(which(&mut places).iter().all(|stays| *stays));
        // No more than half.
        places.push(unproven.enter(front));
        assert_eq!(which(&mut places).iter().filter(|stays| **stays).count(), 8);
        // One that is known while it is there; and those that were heard of longest ago are strangers again.
        let mut late = unproven.enter(Some(stranger(200)));
        for number in 0..MAX_KNOWN {
            unproven.proved(Some(stranger(200 + u32::try_from(number).unwrap())));
        }
        for number in 1000..1020 {
            strangers.push(unproven.enter(Some(stranger(number))));
        }
        assert!(stays(&mut late));
        assert!(which(&mut places).iter().any(|stays| !stays));
        let present = unproven.lock();
        assert_eq!(present.known.len(), MAX_KNOWN);
        assert_eq!(present.ranks.len(), present.networks.len());
        drop(present);
        drop((places, late, strangers));
        assert!(unproven.lock().ranks.is_empty());
    }

    #[test]
    fn unix_sockets_have_all_places_and_one_is_enough() {
        let unproven = Unproven::new(2);
        let mut places = [(); 3].map(|()| unproven.enter(None));
        assert_eq!(which(&mut places), [false, true, true]);
        let unproven = Unproven::new(1);
        let mut places = ["10.0.0.1", "10.0.0.2"].map(|address| enter(&unproven, address));
        assert_eq!(which(&mut places), [false, true]);
    }
}
