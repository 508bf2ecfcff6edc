//! The suite on the connector for timely dataflow.

#![allow(clippy::disallowed_methods, reason = "jobs run on threads of their own")]

mod adapter;

use alluvium_conformance::{Options, run};

use crate::adapter::OnTimely;

#[test]
fn the_connector_for_timely_keeps_every_claim_that_it_can_be_put_to() {
    let given = std::env::var("ALLUVIUM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = given
        .unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64 % 1_000_000);
    let dir = tempfile::tempdir().unwrap();
    let report = run(&OnTimely::default(), &Options::new(dir.path(), seed));
    println!("{report}");
    assert!(report.is_kept(), "{report}");
    let skipped: Vec<_> = report.skipped().collect();
    assert_eq!(
        skipped,
        ["results whose completion nobody was told of are shown by a restore"],
        "{report}"
    );
}
