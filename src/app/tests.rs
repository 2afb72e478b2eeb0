//! What a node answers to links for which it has no role.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use tokio::net::UnixListener;

use super::node::Services;
