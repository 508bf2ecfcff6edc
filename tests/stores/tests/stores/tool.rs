//! The command line tool on a bucket: it says and does there what it says and does of a
//! directory, which has tests of its own.
//!
//! The job ran in a directory, whose objects were put into the bucket one by one.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use alluvium::coordinator::{CheckpointSettings, Coordinator, Depth, JobView, RestoreFrom, verify};
use alluvium::env::Env;
use alluvium::object::ObjectStore;
use serde_json::Value;
use stores_tests::Server;

use crate::env;
use crate::job::{JOB, copy, open_store, shared};

const URL: &str = "s3://bucket/job";

/// What came of it.
#[derive(Debug)]
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.stdout).unwrap_or_else(|why| panic!("{why}: {self:?}"))
    }
}

/// The tool, to be run with the server's address and these credentials in its environment.
fn command(endpoint: &str, secret: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alluvium-on-stores"));
    command.args(args).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    for (name, value) in [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ALLOW_HTTP", "true"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "access"),
        ("AWS_SECRET_ACCESS_KEY", secret),
    ] {
        command.env(name, value);
    }
    command
}

fn ran(output: std::process::Output) -> Ran {
    Ran {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

fn run(server: &Server, args: &[&str]) -> Ran {
    ran(command(&server.endpoint(), "secret", args).output().unwrap())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A server with the job of the tests of the tool, under `job/` in the bucket.
fn with_job(env: &Arc<dyn Env>) -> (Server, Arc<dyn ObjectStore>) {
    let server = Server::start();
    let store: Arc<dyn ObjectStore> = Arc::new(server.store(env, "job"));
    let before = open_store(shared());
    for name in before.list("").unwrap() {
        let object = before.open(&name).unwrap();
        let mut bytes = vec![0; object.len() as usize];
        object.read_at(0, &mut bytes).unwrap();
        store.create(&name, &bytes).unwrap();
    }
    (server, store)
}

fn whole(store: &Arc<dyn ObjectStore>, job: &str, from: &RestoreFrom) {
    let view = JobView::open(Arc::clone(store), job).unwrap().unwrap();
    let checkpoint = view.read(&view.find(from).unwrap().unwrap()).unwrap();
    let found = verify(&checkpoint, &*view.source(), Depth::Deep, &mut |_, _| {});
    assert!(found.is_whole(), "{found:?}");
}

fn all_of(store: &dyn ObjectStore) -> BTreeMap<String, Vec<u8>> {
    let names = store.list("").unwrap();
    let read = |name: &alluvium::object::ObjectName| {
        let object = store.open(name).unwrap();
        let mut bytes = vec![0; object.len() as usize];
        object.read_at(0, &mut bytes).unwrap();
        (name.to_string(), bytes)
    };
    names.iter().map(read).collect()
}

/// What a value says apart from where the store is and how long ago things were.
fn without_place(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let fields = fields.into_iter().filter(|(name, _)| !name.contains("age"));
            Value::Object(fields.map(|(name, value)| (name, without_place(value))).collect())
        }
        Value::Array(all) => Value::Array(all.into_iter().map(without_place).collect()),
        other => other,
    }
}

#[test]
fn verbs_that_look_say_of_a_bucket_what_they_say_of_a_directory_and_only_read() {
    let env = env();
    let (server, store) = with_job(&env);
    let before = all_of(&*store);
    server.take_requests();
    let verbs: [(&str, &[&str]); 14] = [
        ("list", &["--history"]),
        ("show", &["--job", JOB]),
        ("files", &[]),
        ("states", &["--key-groups"]),
        ("get", &["--operator", "count", "--state", "counts", "1"]),
        ("scan", &["--operator", "count", "--state", "counts"]),
        ("diff", &["before", "latest", "--records"]),
        ("verify", &["--deep", "--all"]),
        ("rescale", &["--operator", "count", "--to", "3"]),
        ("upgrade", &[]),
        ("gc", &[]),
        ("gc", &["--job-is-stopped"]),
        ("dispose", &["before"]),
        ("savepoint", &["new"]),
    ];
    let lines = |ran: &Ran| -> Vec<Value> {
        assert_eq!(ran.code, 0, "{ran:?}");
        let lines = serde_json::Deserializer::from_str(&ran.stdout).into_iter();
        lines.map(|line| without_place(line.unwrap())).collect()
    };
    for (verb, args) in verbs {
        let of = |place| [&[verb, place], args, &["--format", "json"]].concat();
        let there = lines(&run(&server, &of(URL)));
        let here = lines(&run(&server, &of(text(shared()))));
        assert!(!there.is_empty(), "{verb}");
        assert_eq!(there, here, "{verb} {args:?}");
    }
    let requests = server.take_requests();
    let writes: Vec<_> =
        requests.iter().filter(|r| !r.starts_with("GET") && !r.starts_with("HEAD")).collect();
    assert!(writes.is_empty() && !requests.is_empty(), "{writes:?}");
    assert_eq!(all_of(&*store), before);
}

#[test]
fn savepoints_go_into_a_bucket_and_come_out_of_it() {
    let env = env();
    let (server, store) = with_job(&env);
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("folder");
    let (there, here) = ("s3://bucket/exports/one", text(&folder));
    // As folders of files: the same in a bucket and in a directory.
    assert_eq!(run(&server, &["export", URL, there, "--savepoint", "before"]).code, 0);
    // Pins are written into a job's store, so this is a copy of the shared one.
    let (_copy, on_disk) = copy();
    let on_disk = run(&server, &["export", text(&on_disk), here, "--savepoint", "before"]);
    assert_eq!(on_disk.code, 0, "{on_disk:?}");
    let exported = server.store(&env, "exports/one");
    let names = |store: &dyn ObjectStore| -> Vec<String> {
        store.list("").unwrap().iter().map(ToString::to_string).collect()
    };
    assert_eq!(names(&exported), names(&*open_store(&folder)));
    assert_eq!(run(&server, &["export", URL, "s3://bucket/job"]).code, 1, "something else");
    for place in [there, here] {
        let proof = run(&server, &["relocate", place, "--format", "json"]).json();
        assert_eq!(proof["whole"], true, "{place}");
    }
    assert_eq!(run(&server, &["verify", there, "--deep"]).code, 0);
    assert_eq!(run(&server, &["relocate", here, "s3://bucket/exports/two"]).code, 0);
    // Into other jobs of the bucket.
    for (src, job) in [(there, "from-bucket"), (here, "from-directory")] {
        let args = ["import", URL, src, "--name", "in", "--job", job, "--job-is-stopped", "--yes"];
        let imported = run(&server, &args);
        assert_eq!(imported.code, 0, "{imported:?}");
        whole(&store, job, &RestoreFrom::Savepoint("in".to_owned()));
    }
    // As one stream: byte for byte the same from both places.
    let (one, other) = (dir.path().join("one"), dir.path().join("other"));
    let (_another, directory) = copy();
    for (place, file) in [(URL, &one), (text(&directory), &other)] {
        let job = ["--job", JOB, "--savepoint", "before"];
        let args = [&["export", place, text(file), "--canonical"], &job[..]].concat();
        let exported = run(&server, &args);
        assert_eq!(exported.code, 0, "{exported:?}");
    }
    let (one_bytes, other_bytes) = (bytes_of(&*env, &one), bytes_of(&*env, &other));
    assert!(!one_bytes.is_empty() && one_bytes == other_bytes);
    let args = ["import", URL, text(&one), "--name", "in", "--job", "from-stream"];
    let imported =
        run(&server, &[&args[..], &["--canonical", "--job-is-stopped", "--yes"]].concat());
    assert_eq!(imported.code, 0, "{imported:?}");
    whole(&store, "from-stream", &RestoreFrom::Savepoint("in".to_owned()));
    // A stream is a file, and not an object.
    let stream = "s3://bucket/stream";
    let refused = run(&server, &["export", URL, stream, "--job", JOB, "--canonical"]);
    assert!(refused.code == 1 && refused.stderr.contains("pipe it"), "{refused:?}");
    whole(&store, JOB, &RestoreFrom::Latest);
}

fn bytes_of(env: &dyn Env, path: &Path) -> Vec<u8> {
    let file = env.fs().open(path).unwrap();
    let mut bytes = vec![0; file.len() as usize];
    file.read_at(0, &mut bytes).unwrap();
    bytes
}

#[test]
fn a_stopped_job_in_a_bucket_is_changed_and_cleaned_up() {
    let env = env();
    let (server, store) = with_job(&env);
    let stopped = ["--job-is-stopped", "--yes", "--format", "json"];
    let run = |verb, args: &[&str]| run(&server, &[&[verb, URL], args, &stopped].concat()).json();
    let kept = run("savepoint", &["kept"]);
    let view = JobView::open(Arc::clone(&store), JOB).unwrap().unwrap();
    assert_eq!(view.entry().savepoint("kept").unwrap().checkpoint.id.0, kept["checkpoint"]);
    run("dispose", &["before"]);
    run("gc", &[]);
    let view = JobView::open(Arc::clone(&store), JOB).unwrap().unwrap();
    assert!(view.entry().savepoint("before").is_none());
    for kept in view.entry().kept() {
        let found = verify(&view.read(kept).unwrap(), &*view.source(), Depth::Deep, &mut |_, _| {});
        assert!(found.is_whole(), "{found:?}");
    }
    let orphans = alluvium::coordinator::orphans(&store, JOB).unwrap();
    assert!(orphans.iter().all(|orphan| !orphan.is_old), "{orphans:?}");
}

#[test]
fn a_running_job_in_a_bucket_does_what_the_tool_asks_for() {
    let env = env();
    let (server, store) = with_job(&env);
    let mut settings = CheckpointSettings::default();
    (settings.interval_ms, settings.requests_interval_ms) = (None, Some(1));
    let builder = Coordinator::builder(Arc::clone(&store), JOB).settings(settings);
    let mut coordinator = builder.open().unwrap();
    let epoch = coordinator.epoch();
    for args in [&["savepoint", URL, "kept", "--checkpoint", "2"][..], &["dispose", URL, "before"]]
    {
        let args = [args, &["--yes"]].concat();
        let mut child = command(&server.endpoint(), "secret", &args).spawn().unwrap();
        // Ends with the child, which gives up by itself if nobody answers.
        while child.try_wait().unwrap().is_none() {
            coordinator.poll().unwrap();
        }
        let done = ran(child.wait_with_output().unwrap());
        assert_eq!(done.code, 0, "{done:?}");
    }
    let view = coordinator.view();
    assert!(view.entry().savepoint("kept").is_some() && view.entry().savepoint("before").is_none());
    assert_eq!(coordinator.epoch(), epoch, "nobody took the job over");
}

#[test]
fn what_keeps_the_tool_from_a_bucket_is_named_and_no_secret_with_it() {
    let env = env();
    let (server, _store) = with_job(&env);
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}");
    let there = server.endpoint();
    let no_bucket = "s3://no-such-bucket/job";
    let verbs: [&[&str]; 3] = [&["list"], &["show", "--job", JOB], &["verify", "--deep"]];
    for verb in verbs {
        for (endpoint, secret, url, code, word) in [
            (&there, "hunter2", URL, 3, "check the credentials"),
            (&there, "secret", no_bucket, 3, "no-such-bucket"),
            (&nobody, "secret", URL, 3, "bucket/job"),
            (&there, "secret", "s3://bucket/empty", 1, "job"),
            (&there, "secret", "s3://key:hunter2@bucket/job", 1, "credentials in the environment"),
            (&there, "secret", "ftp://key:hunter2@host/job", 1, "s3://"),
        ] {
            let args = [&[verb[0], url], &verb[1..]].concat();
            let ran = ran(command(endpoint, secret, &args).output().unwrap());
            assert_eq!((ran.code, &*ran.stdout), (code, ""), "{url} {secret}: {ran:?}");
            assert!(ran.stderr.contains(word), "{url}: {}", ran.stderr);
            assert!(!ran.stderr.contains("hunter2"), "{}", ran.stderr);
        }
    }
    // A bucket that goes away while somebody looks is no empty one.
    server.hide_bucket(true);
    let gone = run(&server, &["list", URL]);
    server.hide_bucket(false);
    assert_eq!(gone.code, 3, "{gone:?}");
}
