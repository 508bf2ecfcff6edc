//! How fast tables go into an object store, against the client of the crate
//! `object_store` alone; and how fast they are read in order.
//!
//! ```sh
//! cargo run --release --package stores-tests --example upload -- 256 32
//! ```
//!
//! The arguments are the MiB in all and the MiB of each object. Both ways send the same
//! bytes to the same server, in parts of the same size, as many at once, in turns. The
//! server shares the machine, so only the ratio says something. Reads are hashed by neither.

use std::sync::Arc;
use std::time::Duration;

use alluvium::env::{Env, RealEnv};
use alluvium::object::{Contents, ObjectName, ObjectStore, RemoteStore};
use futures_util::TryStreamExt;
use object_store::aws::AmazonS3;
use object_store::path::Path;
use object_store::{ObjectStoreExt, WriteMultipart};
use stores_tests::Server;
use tokio::runtime::Runtime;

const PART_BYTES: usize = 8 << 20;
const PARTS_AT_ONCE: usize = 4;
const ROUNDS: u64 = 5;

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().expect("MiB"));
    let total = arguments.next().unwrap_or(256) << 20;
    let size = arguments.next().unwrap_or(32) << 20;
    let env: Arc<dyn Env> = Arc::new(RealEnv::new());
    let dir = tempfile::tempdir().expect("a directory");
    let server = Server::start();
    let options = server.options().part_bytes(PART_BYTES).parallel_parts(PARTS_AT_ONCE);
    let store = server.store_with(&env, "ours", options.request_timeout(Duration::from_secs(60)));
    let plain = server.plain_client();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");

    let local = dir.path().join("table");
    let bytes: Vec<u8> = (0..size as u64).map(|i| ((i * i) >> 7) as u8).collect();
    let mut file = env.fs().create_new(&local).expect("a file");
    file.write_all(&bytes).expect("a full file");
    file.sync().expect("a durable file");
    let contents = Contents::of(&bytes);
    let objects = total / size;

    println!("{objects} objects of {} MiB, a round each", size >> 20);
    let (mut ratios, mut read_ratios) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let names: Vec<String> = (0..objects).map(|i| format!("{round}/{i}")).collect();
        let ours = |env: &dyn Env| {
            time(env, || {
                for name in &names {
                    let name = ObjectName::new(name).expect("a name");
                    store
                        .create_from_file(&name, &local, &contents, &mut |_| true)
                        .expect("an object");
                }
            })
        };
        let theirs = |env: &dyn Env| {
            time(env, || {
                for name in &names {
                    let file = env.fs().open(&local).expect("a file");
                    send(&runtime, &plain, &format!("theirs/{name}"), &*file);
                }
            })
        };
        // Whoever comes second may find things warm, or full.
        let (ours, theirs) = if round % 2 == 0 {
            let ours = ours(&*env);
            (ours, theirs(&*env))
        } else {
            let theirs = theirs(&*env);
            (ours(&*env), theirs)
        };
        let read_ours = time(&*env, || names.iter().for_each(|name| read(&store, name)));
        let read_theirs = time(&*env, || {
            for name in &names {
                let path = Path::from(format!("theirs/{name}"));
                runtime.block_on(async {
                    let got = plain.get(&path).await.expect("an object");
                    let pieces: Vec<_> = got.into_stream().try_collect().await.expect("bytes");
                    std::hint::black_box(pieces);
                });
            }
        });
        let speed = |seconds: f64| (objects * size) as f64 / seconds / (1 << 20) as f64;
        ratios.push(theirs / ours);
        read_ratios.push(read_theirs / read_ours);
        println!(
            "round {round}: create {:.0} MiB/s, object_store alone {:.0}; read in order {:.0}, alone {:.0}",
            speed(ours),
            speed(theirs),
            speed(read_ours),
            speed(read_theirs)
        );
    }
    for (what, ratios) in [("create", &mut ratios), ("read in order", &mut read_ratios)] {
        ratios.sort_by(f64::total_cmp);
        println!("{what}: median ratio {:.2}, {ratios:.2?}", ratios[ratios.len() / 2]);
    }
}

fn time(env: &dyn Env, body: impl FnOnce()) -> f64 {
    let start = env.monotonic_ns();
    body();
    (env.monotonic_ns() - start) as f64 / 1e9
}

fn send(runtime: &Runtime, client: &AmazonS3, path: &str, file: &dyn alluvium::env::ReadAt) {
    let path = Path::from(path);
    runtime.block_on(async {
        let upload = client.put_multipart(&path).await.expect("an upload");
        let mut upload = WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut offset = 0;
        while offset < file.len() {
            let mut part = vec![0; (file.len() - offset).min(PART_BYTES as u64) as usize];
            file.read_through(offset, &mut part).expect("bytes");
            offset += part.len() as u64;
            upload.wait_for_capacity(PARTS_AT_ONCE).await.expect("room");
            upload.put(part.into());
        }
        upload.finish().await.expect("an object");
    });
}

fn read(store: &RemoteStore, name: &str) {
    let object = store.open(&ObjectName::new(name).expect("a name")).expect("an object");
    let mut buffer = vec![0; 64 << 10];
    let mut offset = 0;
    while offset < object.len() {
        let step = (object.len() - offset).min(buffer.len() as u64) as usize;
        object.read_through(offset, &mut buffer[..step]).expect("bytes");
        offset += step as u64;
    }
    std::hint::black_box(&buffer);
}
