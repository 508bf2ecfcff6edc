//! The local directory as a cache of the checkpoint store: it keeps within its limit,
//! what left it is read from the store, what is lacking is fetched, and it holds what
//! the versions need and nothing else; whatever the store and the disk do meanwhile,
//! nothing that was acknowledged is lost.

#![allow(unreachable_pub, reason = "the modules of a test program")]

mod damage;
mod fetched;
mod full;
mod job;
mod leaving;
mod lives;
mod store;
