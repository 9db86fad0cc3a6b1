//! Opens a database in Redis, changes it, and reads it through a second connection.
//!
//! Run it with a server of yours: `SQLITE_REDIS_URL=redis://localhost:6379 cargo run --example shop`

use std::time::Duration;

use sqlite_redis::Options;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The server comes from SQLITE_REDIS_URL; `.server("redis://…")` would name it here.
    let shop = Options::new("shop").cache_size(16 << 20);
    let mut writer = shop.open()?;
    writer.busy_timeout(Duration::from_secs(5))?;

    let sale = writer.transaction()?;
    sale.execute_batch("CREATE TABLE IF NOT EXISTS item (name TEXT PRIMARY KEY, price REAL)")?;
    sale.execute("INSERT OR REPLACE INTO item VALUES (?1, ?2)", ("tea", 3.5))?;
    sale.commit()?;

    let reader = shop.clone().read_only(true).open()?;
    let price: f64 = reader.query_row("SELECT price FROM item WHERE name = 'tea'", [], |row| row.get(0))?;
    println!("tea costs {price}");

    // What went wrong last, in words, with database and server.
    if reader.execute("DELETE FROM item", []).is_err()
        && let Some(error) = sqlite_redis::last_error(&reader)
    {
        println!("{error}");
    }
    Ok(())
}
