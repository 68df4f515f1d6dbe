//! Modbus TCP: a meter by pymodbus, one in this process that counts requests, and meters that fail.

use std::future::{Ready, ready};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use ebbtide_devices::modbus::{Function, Kind, Modbus, ModbusConfig, Preset, Register, WordOrder};
use ebbtide_devices::quantity::Unit;
use ebbtide_devices::{DeviceError, Driver, OutletId, Period, Switch};
use ebbtide_runtime::tasks::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_modbus::prelude::{ExceptionCode, Request, Response};
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::{Server, accept_tcp_connection};

use crate::peers::{Peer, free_port, python, script, wait_for_port};
use crate::{kwh, watts, within};

fn meter(port: u16) -> ModbusConfig {
    ModbusConfig {
        port,
        timeout: Period::new(Duration::from_millis(500)),
        ..ModbusConfig::at("127.0.0.1", Preset::EastronSdm120)
    }
}

fn holding(address: u16, kind: Kind, scale: f64, phase: &str) -> Register {
    let (function, words) = (Function::Holding, WordOrder::Big);
    Register { function, address, kind, words, scale, unit: Unit::Watt, phase: Some(phase.to_owned()) }
}

#[tokio::test]
async fn a_meter_by_pymodbus_tells_all_its_registers() {
    let Some(python) = python("pymodbus") else { return };
    let port = free_port();
    let _peer = Peer::start(Command::new(python).arg(script("modbus_meter.py")).arg(port.to_string()));
    wait_for_port(port);
    let registers = vec![
        holding(100, Kind::U32, 0.1, "rack"),
        holding(102, Kind::I16, 1.0, "fed back"),
        holding(103, Kind::U16, 1.0, "not measured"),
    ];
    // this server, unlike the meter, refuses what lies between
    let config = ModbusConfig { registers, gap: Some(0), ..meter(port) };
    let mut meter = Modbus::new(config).unwrap();
    let report = meter.read().await.unwrap();
    assert_eq!((watts(&report.total), kwh(&report.total)), (Some(281.5), Some(1234.5)));
    assert_eq!(report.total.voltage_mv.as_ref().map(|v| v.value), Some(230_500));
    assert_eq!(report.total.current_ma.as_ref().map(|a| a.value), Some(1_250));
    let phases: Vec<_> = report.phases.iter().map(|(name, feed)| (name.as_str(), watts(feed))).collect();
    assert_eq!(phases, [("rack", Some(432.1))], "negative and unmeasured values are absent: {:?}", report.missing);

    let absent =
        ModbusConfig { registers: vec![holding(9_000, Kind::U16, 1.0, "x")], preset: None, ..self::meter(port) };
    let report = Modbus::new(absent).unwrap().read().await.unwrap();
    assert!(report.phases.is_empty());
    assert!(report.missing[0].starts_with("Holding registers 9000 to 9000: the meter says"), "{:?}", report.missing);
    assert!(matches!(meter.switch(&OutletId::new("1"), Switch::Off).await, Err(DeviceError::Unable { .. })));
}

/// An SDM120 that draws 100 W, and after that answers as it is told.
struct Sdm {
    requests: Arc<AtomicU32>,
}

impl Service for Sdm {
    type Request = Request<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        self.requests.fetch_add(1, Ordering::SeqCst);
        ready(match request {
            Request::ReadInputRegisters(0, count) => {
                let mut registers = vec![0; usize::from(count)];
                registers[12] = 0x42C8; // 100.0
                Ok(Response::ReadInputRegisters(registers))
            }
            Request::ReadInputRegisters(..) => Ok(Response::ReadInputRegisters(vec![0x7FC0, 0])),
            _ => Err(ExceptionCode::IllegalFunction),
        })
    }
}

#[tokio::test]
async fn neighbours_come_in_one_request_over_one_connection() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (requests, connections) = (Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
    let (counted, opened) = (requests.clone(), connections.clone());
    let mut tasks = Tasks::new();
    tasks.spawn("meter", async move {
        let on_connected = |stream, address| {
            opened.fetch_add(1, Ordering::SeqCst);
            let requests = counted.clone();
            let new = move |_| Ok(Some(Sdm { requests: requests.clone() }));
            ready(accept_tcp_connection(stream, address, new))
        };
        Ok(Server::new(listener).serve(&on_connected, |_| ()).await?)
    });
    let mut meter = Modbus::new(meter(port)).unwrap();
    for _ in 0..3 {
        let report = meter.read().await.unwrap();
        assert_eq!((watts(&report.total), kwh(&report.total)), (Some(100.0), None), "no number is no energy");
    }
    assert_eq!((requests.load(Ordering::SeqCst), connections.load(Ordering::SeqCst)), (6, 1));
}

/// A meter that does this with each connection.
async fn faulty(answer: &'static [u8]) -> (u16, Tasks) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut tasks = Tasks::new();
    tasks.spawn("faulty meter", async move {
        loop {
            let (mut stream, _) = listener.accept().await?;
            let mut request = [0; 12];
            stream.read_exact(&mut request).await?;
            // the transaction's number comes back
            let bytes = [&request[..2], answer].concat();
            stream.write_all(&bytes).await?;
            if answer.is_empty() {
                std::future::pending::<()>().await;
            }
        }
    });
    (port, tasks)
}

#[tokio::test]
async fn faults_are_bounded_and_clear() {
    let limit = Duration::from_secs(5);
    let (port, _tasks) = faulty(&[]).await;
    let hanging = within(limit, Modbus::new(meter(port)).unwrap().read()).await.unwrap_err();
    assert!(matches!(hanging, DeviceError::Timeout { .. }), "{hanging}");
    // half an answer, then the end
    let (port, _tasks) = faulty(&[0, 0, 0, 31, 1, 4, 28, 0]).await;
    let half = within(limit, Modbus::new(meter(port)).unwrap().read()).await.unwrap_err();
    assert!(matches!(half, DeviceError::Unreachable { .. }), "{half}");
    // one register where fourteen were asked for
    let (port, _tasks) = faulty(&[0, 0, 0, 5, 1, 4, 2, 0, 7]).await;
    let short = within(limit, Modbus::new(meter(port)).unwrap().read()).await.unwrap_err();
    assert!(matches!(short, DeviceError::Nonsense { .. }), "{short}");
    // another unit's answer
    let (port, _tasks) = faulty(&[0, 0, 0, 5, 9, 4, 2, 0, 7]).await;
    let other = within(limit, Modbus::new(meter(port)).unwrap().read()).await.unwrap_err();
    assert!(matches!(other, DeviceError::Nonsense { .. }), "{other}");
    // no Modbus at all
    let (port, _tasks) = faulty(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
    let http = within(limit, Modbus::new(meter(port)).unwrap().read()).await.unwrap_err();
    assert!(http.is_passing() || matches!(http, DeviceError::Nonsense { .. }), "{http}");
    let nobody = within(limit, Modbus::new(meter(free_port())).unwrap().read()).await.unwrap_err();
    assert!(matches!(nobody, DeviceError::Unreachable { .. }), "{nobody}");
}

#[test]
fn what_cant_be_read_is_told_when_it_is_configured() {
    let none = ModbusConfig { preset: None, ..meter(502) };
    assert!(Modbus::new(none).err().unwrap().to_string().contains("needs a preset or registers"));
    let beyond = ModbusConfig { registers: vec![holding(65_535, Kind::U32, 1.0, "x")], ..meter(502) };
    assert!(Modbus::new(beyond).err().unwrap().to_string().contains("beyond the last register"));
}
