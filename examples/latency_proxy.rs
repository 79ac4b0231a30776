//! A TCP proxy that adds a round trip: `latency_proxy LISTEN TARGET MILLISECONDS`. For benchmarks, since a local endpoint is unrealistically near.
//!
//! Half the time is added in each direction; bytes keep their order, and bandwidth is not limited.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

/// Pieces that may be on the way in one direction: bounds the memory of a connection to 64 MiB.
const ON_THE_WAY_MAX: usize = 1024;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [listen, target, milliseconds] = arguments.as_slice() else {
        eprintln!("usage: latency_proxy LISTEN TARGET MILLISECONDS");
        std::process::exit(2);
    };
    let delay = Duration::from_millis(milliseconds.parse().unwrap_or(0)) / 2;
    let listener = TcpListener::bind(listen).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (client, _) = listener.accept().await?;
        let target = target.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(target).await else { return };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (client_in, client_out) = client.into_split();
            let (server_in, server_out) = server.into_split();
            tokio::join!(carry(client_in, server_out, delay), carry(server_in, client_out, delay));
        });
    }
}

async fn carry(mut from: impl AsyncReadExt + Unpin + Send + 'static, mut to: impl AsyncWriteExt + Unpin, delay: Duration) {
    let (send, mut receive) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY_MAX);
    let reader = tokio::spawn(async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            if send.send((Instant::now() + delay, buffer[..count].to_vec())).await.is_err() {
                return;
            }
        }
    });
    while let Some((due, bytes)) = receive.recv().await {
        sleep_until(due).await;
        if to.write_all(&bytes).await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
    reader.abort();
}
