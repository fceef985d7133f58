//! Two real MariaDB servers that replicate each other through the mesh, while something writes to both.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use meshd_testing::skip;

use crate::{
    node::{Node, PATIENCE},
    world::{run, wait_until},
};

/// Between two rows of one writer.
const PAUSE: Duration = Duration::from_millis(40);
const PORT: u16 = 3306;

/// Statements that run first on each server, and are not replicated.
const SETUP: &str = "\
SET sql_log_bin = 0;
CREATE DATABASE mesh;
CREATE TABLE mesh.written (id BIGINT AUTO_INCREMENT PRIMARY KEY, who INT, n BIGINT) ENGINE = InnoDB;
CREATE USER replica IDENTIFIED BY 'secret';
GRANT REPLICATION SLAVE ON *.* TO replica;
";

/// Where `tests/run` has put it; `None`, said aloud, if it could not be fetched.
fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("MESHD_MARIADB").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/peers/mariadb"),
        PathBuf::from,
    );
    if folder.join("ready").exists() {
        return Some(folder);
    }
    let reason = format!(
        "{} has none: `tests/run peers` fetches it",
        folder.display()
    );
    skip("mariadb", &reason);
    None
}

/// One server; killed when this is dropped.
struct Server {
    folder: PathBuf,
    dir: PathBuf,
    address: String,
    child: Child,
}

impl Server {
    /// Makes its tables, and waits for nothing.
    fn install(folder: &Path, node: &Node) -> Child {
        fs::create_dir_all(dir_of(node).join("tmp")).unwrap();
        let mut command = Command::new(folder.join("usr/bin/mariadb-install-db"));
        command
            .env("LD_LIBRARY_PATH", folder.join("lib"))
            .args(common(folder, &dir_of(node)))
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .stdout(Stdio::null());
        command.spawn().unwrap()
    }

    /// Starts it on the mesh address of a node. `number` tells the two apart.
    fn start(folder: &Path, node: &Node, number: usize) -> Self {
        let dir = dir_of(node);
        let setup = dir.join("setup.sql");
        fs::write(&setup, SETUP).unwrap();
        let mut command = node.host.command(folder.join("usr/sbin/mariadbd"));
        command
            .env("LD_LIBRARY_PATH", folder.join("lib"))
            .args(common(folder, &dir))
            .arg(format!("--socket={}", dir.join("sock").display()))
            .arg(format!("--log-error={}", dir.join("log.err").display()))
            .arg(format!("--init-file={}", setup.display()))
            .arg(format!("--bind-address={}", node.v4()))
            .arg(format!("--port={PORT}"))
            .arg(format!("--server-id={number}"))
            .arg(format!("--gtid-domain-id={number}"))
            .arg(format!("--auto-increment-offset={number}"))
            .args([
                "--auto-increment-increment=2",
                "--log-bin=log-bin",
                "--binlog-format=row",
                "--gtid-strict-mode=1",
                "--skip-name-resolve",
                "--innodb-flush-log-at-trx-commit=2",
                "--innodb-buffer-pool-size=8M",
                "--performance-schema=0",
            ])
            .stdin(Stdio::null());
        let server = Self {
            folder: folder.to_owned(),
            dir,
            address: node.v4(),
            child: command.spawn().unwrap(),
        };
        wait_until("MariaDB answers", PATIENCE, || {
            let result = server.client().args(["-e", "SELECT 1"]).output().unwrap();
            let said = String::from_utf8_lossy(&result.stderr).into_owned();
            result.status.success().then_some(()).ok_or(said)
        });
        server
    }

    fn client(&self) -> Command {
        let mut command = Command::new(self.folder.join("usr/bin/mariadb"));
        command
            .env("LD_LIBRARY_PATH", self.folder.join("lib"))
            .args([
                "--no-defaults",
                "--user=root",
                "--skip-column-names",
                "--batch",
            ])
            .arg(format!("--socket={}", self.dir.join("sock").display()));
        command
    }

    /// Its answer, without names of columns.
    fn ask(&self, sql: &str) -> String {
        run(self.client().args(["-e", sql])).trim_end().to_owned()
    }

    /// Begins to replicate another server.
    fn follow(&self, other: &Self) {
        let host = &other.address;
        self.ask(&format!(
            "CHANGE MASTER TO MASTER_HOST = '{host}', MASTER_PORT = {PORT}, MASTER_USER = 'replica', \
             MASTER_PASSWORD = 'secret', MASTER_CONNECT_RETRY = 1, MASTER_USE_GTID = slave_pos; START SLAVE"
        ));
    }

    /// How many rows of a writer it has.
    fn rows_of(&self, writer: usize) -> u64 {
        let sql = format!("SELECT COUNT(*) FROM mesh.written WHERE who = {writer}");
        self.ask(&sql).parse().unwrap()
    }

    /// Every row: its id, who wrote it, and which of theirs it is.
    fn rows(&self) -> Vec<(u64, usize, u64)> {
        let text = self.ask("SELECT id, who, n FROM mesh.written ORDER BY id");
        let row = |line: &str| {
            let mut fields = line.split('\t').map(|field| field.parse().unwrap());
            let mut next = || fields.next().unwrap();
            (next(), usize::try_from(next()).unwrap(), next())
        };
        text.lines().map(row).collect()
    }

    /// Panics unless replication runs and never stopped for an error.
    fn assert_replicates(&self) {
        let sql = "SHOW ALL SLAVES STATUS\\G";
        let status = run(self.client().args(["--column-names", "-e", sql]));
        for wanted in [
            "Slave_IO_Running: Yes",
            "Slave_SQL_Running: Yes",
            "Last_IO_Errno: 0",
            "Last_SQL_Errno: 0",
        ] {
            assert!(status.contains(wanted), "no {wanted:?} in:\n{status}");
        }
        // The status forgets an error that is over.
        let log = fs::read_to_string(self.dir.join("log.err")).unwrap();
        let error = |line: &&str| line.contains("[ERROR]") && line.contains("Slave");
        let errors: Vec<&str> = log.lines().filter(error).collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }

    /// How often the other one has connected to replicate from here.
    fn connections(&self) -> u64 {
        let status = self.ask("SHOW GLOBAL STATUS LIKE 'Slave_connections'");
        status.split_once('\t').unwrap().1.parse().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log.err")).unwrap_or_default();
            eprintln!("---- log of MariaDB at {} ----\n{log}", self.address);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn dir_of(node: &Node) -> PathBuf {
    node.dir().join("mariadb")
}

/// Options of the server and of what makes its tables: no files of this machine, little memory and disk.
fn common(folder: &Path, dir: &Path) -> Vec<String> {
    let usr = folder.join("usr");
    vec![
        "--no-defaults".to_owned(),
        "--user=root".to_owned(),
        format!("--basedir={}", usr.display()),
        format!("--lc-messages-dir={}", usr.join("share/mysql").display()),
        format!("--plugin-dir={}", usr.join("lib/mysql/plugin").display()),
        format!("--datadir={}", dir.join("data").display()),
        // Two that share one take each other's tables away.
        format!("--tmpdir={}", dir.join("tmp").display()),
        "--innodb-log-file-size=4M".to_owned(),
    ]
}

/// Writes one row after the other to one server: number 0, 1, 2 … of this writer.
struct Writer {
    /// Rows that the server has acknowledged.
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Writer {
    fn start(server: &Server, who: usize) -> Self {
        let (acknowledged, stop) = <(Arc<AtomicU64>, Arc<AtomicBool>)>::default();
        let mut command = server.client();
        command
            .arg("--unbuffered")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut client = command.spawn().unwrap();
        let thread = thread::spawn({
            let (acknowledged, stop) = (acknowledged.clone(), stop.clone());
            move || {
                let mut sql = client.stdin.take().unwrap();
                let mut answers = BufReader::new(client.stdout.take().unwrap()).lines();
                for n in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let values = format!("({who}, {n})");
                    writeln!(
                        sql,
                        "INSERT INTO mesh.written (who, n) VALUES {values} RETURNING n;"
                    )
                    .unwrap();
                    let answer = answers.next().expect("the client goes on").unwrap();
                    assert_eq!(answer, n.to_string());
                    acknowledged.store(n + 1, Ordering::Relaxed);
                    thread::sleep(PAUSE);
                }
                drop(sql);
                assert!(client.wait().unwrap().success());
            }
        });
        Self {
            acknowledged,
            stop,
            thread,
        }
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }
}

/// Two masters, each the replica of the other, and a writer on each.
pub(crate) struct Masters {
    servers: [Server; 2],
    writers: [Writer; 2],
}

impl Masters {
    /// Starts them on two nodes that reach each other; `None` if there is no MariaDB.
    pub(crate) fn start(nodes: [&Node; 2]) -> Option<Self> {
        let folder = folder()?;
        for mut installing in nodes.map(|node| Server::install(&folder, node)) {
            assert!(installing.wait().unwrap().success(), "mariadb-install-db");
        }
        let [a, b] = nodes;
        let servers = [Server::start(&folder, a, 1), Server::start(&folder, b, 2)];
        let [a, b] = &servers;
        a.follow(b);
        b.follow(a);
        let writers = [Writer::start(a, 0), Writer::start(b, 1)];
        let masters = Self { servers, writers };
        masters.wait_progress();
        Some(masters)
    }

    /// Panics unless each server gets within [`PATIENCE`] what was written to the other by now, and something was.
    pub(crate) fn wait_progress(&self) {
        for (at, writer) in self.writers.iter().enumerate() {
            let wanted = writer.acknowledged() + 1;
            let replica = &self.servers[1 - at];
            wait_until("the other MariaDB has the rows", PATIENCE, || {
                assert!(!writer.thread.is_finished(), "writer {at} has ended");
                let rows = replica.rows_of(at);
                let done = rows >= wanted;
                done.then_some(())
                    .ok_or_else(|| format!("{rows} of {wanted}"))
            });
        }
    }

    /// Stops writing, waits until both have caught up, and compares: every row that was acknowledged is there once,
    /// on both, and replication had neither an error nor another connection than its first.
    pub(crate) fn finish(self) {
        let Self { servers, writers } = self;
        let written = writers.map(|writer| {
            writer.stop.store(true, Ordering::Relaxed);
            writer.thread.join().expect("the writer finished");
            writer.acknowledged.load(Ordering::Relaxed)
        });
        for (at, count) in written.iter().enumerate() {
            wait_until("the other MariaDB has caught up", PATIENCE, || {
                let rows = servers[1 - at].rows_of(at);
                (rows >= *count)
                    .then_some(())
                    .ok_or_else(|| format!("{rows} of {count}"))
            });
        }
        let [here, there] = servers.each_ref().map(Server::rows);
        assert!(here == there, "the tables differ");
        for (who, count) in written.into_iter().enumerate() {
            let mut numbers: Vec<u64> = here
                .iter()
                .filter(|row| row.1 == who)
                .map(|row| row.2)
                .collect();
            numbers.sort_unstable();
            assert!(
                numbers.iter().copied().eq(0..count),
                "rows of writer {who}, {count} acknowledged: {numbers:?}"
            );
        }
        servers.iter().for_each(Server::assert_replicates);
        let connections = servers.each_ref().map(Server::connections);
        eprintln!("MariaDB: {written:?} rows, replicated over {connections:?} connections");
        assert_eq!(connections, [1, 1], "replication has connected again");
    }
}
