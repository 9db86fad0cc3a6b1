//! A scan of a virtual table holds at most two batches of rows in memory. The test runs alone, because it counts all
//! allocations of the process.

use redis::{cmd, pipe};
use sqlite_redis_tests::allocated::most_during;
use sqlite_redis_tests::vtab::table;
use sqlite_redis_tests::{Server, number};

/// Writes rows and index entries directly to Redis, which is faster than SQL.
fn fill(server: &Server, from: i64, to: i64) {
    let mut redis = server.redis();
    for first in (from..=to).step_by(1000) {
        let mut commands = pipe();
        for n in first..=(first + 999).min(to) {
            commands.add_command(cmd("HSET").arg(format!("p.main.t:{n}")).arg("i").arg(n).arg("s").arg("text").clone());
            commands.add_command(cmd("ZADD").arg("p.main.t.index.rowid").arg(n).arg(n).clone());
            commands.add_command(cmd("ZADD").arg("p.main.t.index:i").arg(n).arg(n).clone());
            commands.add_command(cmd("SADD").arg(format!("p.main.t.index:i:{n}")).arg(n).clone());
        }
        commands.exec(&mut redis).unwrap();
    }
}

#[test]
fn the_memory_of_a_scan_does_not_grow_with_its_rows() {
    let _alone = crate::alone();
    let server = Server::start();
    let one = table(&server, "i INT INDEXED, s TEXT");
    let scans =
        ["SELECT count(*) FROM (SELECT i, s FROM t)", "SELECT sum(s = 'text') FROM (SELECT s FROM t WHERE i > 0)"];
    let measure = |rows: i64| scans.map(|sql| most_during(|| assert_eq!(number(&one, sql), rows, "{sql}")));
    fill(&server, 1, 3000);
    measure(3000);
    let few = measure(3000);
    fill(&server, 3001, 60_000);
    let many = measure(60_000);
    for ((sql, few), many) in scans.iter().zip(few).zip(many) {
        println!("{sql}: {few} bytes for 3,000 rows, {many} for 60,000");
        assert!(many < few + few / 4, "{sql}: {few} bytes for 3,000 rows, {many} for 60,000");
    }
}
