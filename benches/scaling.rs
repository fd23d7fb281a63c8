//! The scaling rules played against a day with 100,000 clients, beside who knows the future, a fixed array, and the
//! usual rule of clouds; printed as a table, and drawn into `target/scaling.svg`.
//!
//!     cargo bench --bench scaling
//!
//! 5,000 clients fill a node. *ideal* has, at each moment, as many nodes as the demand needs at 85 % load, and they
//! start at once: nobody can do that. *fixed* has always as many as the scene's height needs. *threshold* opens one
//! node above 80 % mean load and closes one below 40 %, five minutes apart, as clouds have it by default.
//! *overload* are seconds in which the clients wanted more than the nodes can, *unserved* the share of the day's
//! demand that found no room, *flaps* openings within half an hour after a closing and the other way round.
#![allow(missing_docs, clippy::print_stdout, clippy::expect_used)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rezcache::fleet::scaling::ScalingRules;
use rezcache::fleet::simulation::{CLIENTS_PER_NODE, Outcome, Policy, SCENES, Scene, Simulation};

const MINUTES: [u64; 3] = [1, 3, 8];
/// The start-up that is drawn.
const DRAWN: u64 = 3;

fn main() {
    println!(
        "scene          start-up  rule       overload s  unserved  node-hours  of ideal  opened  closed  flaps"
    );
    let mut drawn = Vec::new();
    for scene in SCENES {
        for minutes in MINUTES {
            let startup = Duration::from_secs(60 * minutes);
            let rules =
                ScalingRules { startup, minimum: 2, maximum: 40, step: 10, ..ScalingRules::default() };
            let cooldown = Duration::from_secs(300);
            let threshold = Policy::Threshold { high: 0.8, low: 0.4, cooldown, limits: rules };
            let height = (0..scene.seconds).map(|at| (scene.demand)(seconds(at))).fold(0.0, f64::max);
            let fixed = nodes(height);
            let begin = nodes((scene.demand)(0.0)).max(2);
            let ours = play(scene, Policy::Rules(rules), startup, begin);
            let theirs = play(scene, threshold, startup, begin);
            row(scene, minutes, "rezcache", &ours);
            row(scene, minutes, "threshold", &theirs);
            row(scene, minutes, "fixed", &play(scene, Policy::Fixed, startup, fixed));
            if minutes == DRAWN {
                drawn.push((scene, ours, theirs));
            }
        }
    }
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("target/scaling.svg");
    std::fs::write(&path, plot(&drawn)).expect("target/ can be written");
    println!("\ndrawn into target/scaling.svg, for nodes that start in {DRAWN} minutes");
}

fn play(scene: Scene, policy: Policy, startup: Duration, nodes: usize) -> Outcome {
    let mut simulation = Simulation::of(Instant::now(), policy, startup, nodes);
    simulation.play(scene);
    simulation.outcome
}

fn row(scene: Scene, minutes: u64, rule: &str, outcome: &Outcome) {
    println!(
        "{:13} {minutes:5} min  {rule:9} {:11.0}  {:7.3}%  {:10.1}  {:7.2}x  {:6}  {:6}  {:5}",
        scene.name,
        outcome.overload,
        outcome.unserved * 100.0,
        outcome.hours,
        outcome.hours / outcome.ideal,
        outcome.opened,
        outcome.closed,
        outcome.flaps
    );
}

#[allow(clippy::cast_precision_loss)]
const fn seconds(at: u64) -> f64 {
    at as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn nodes(demand: f64) -> usize {
    (demand / 0.85).ceil() as usize
}

const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 50.0;
const GAP: f64 = 50.0;

/// One panel for each scene: the demand as an area, nodes that serve as steps.
fn plot(scenes: &[(Scene, Outcome, Outcome)]) -> String {
    let panels = seconds(scenes.len() as u64);
    let (width, height) = (LEFT + WIDTH + 20.0, panels * (HEIGHT + GAP) + 60.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
         font-family=\"sans-serif\" font-size=\"12\"><title>Nodes of the array over a day</title>\
         <rect width=\"{width}\" height=\"{height}\" fill=\"#fff\"/>\
         <g transform=\"translate({LEFT} 18)\"><rect width=\"12\" height=\"12\" fill=\"#cfd8e3\"/>\
         <text x=\"18\" y=\"11\">demand, in nodes ({CLIENTS_PER_NODE} clients each)</text>\
         <path d=\"M300 6h24\" stroke=\"#0b6e4f\" stroke-width=\"2\"/><text x=\"330\" y=\"11\">rezcache</text>\
         <path d=\"M420 6h24\" stroke=\"#c2410c\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\"/>\
         <text x=\"450\" y=\"11\">threshold rule</text></g>"
    );
    for (number, (scene, ours, theirs)) in (0_u32..).zip(scenes) {
        let top = 60.0 + f64::from(number) * (HEIGHT + GAP);
        panel(&mut svg, top, *scene, ours, theirs);
    }
    svg.push_str("</svg>\n");
    svg
}

fn panel(svg: &mut String, top: f64, scene: Scene, ours: &Outcome, theirs: &Outcome) {
    let all = ours.course.iter().chain(&theirs.course);
    let most = all.fold(1.0_f64, |most, (demand, serving, _)| most.max(*demand).max(*serving));
    let most = (most / 8.0).ceil() * 8.0;
    let x = |index: usize, count: usize| {
        LEFT + WIDTH * seconds(index as u64) / seconds(count.saturating_sub(1).max(1) as u64)
    };
    let y = |value: f64| top + HEIGHT - HEIGHT * value / most;
    let _ =
        write!(svg, "<text x=\"{LEFT}\" y=\"{:.0}\" font-weight=\"bold\">{}</text>", top - 4.0, scene.name);
    for part in 0..=4_u32 {
        let value = most * f64::from(part) / 4.0;
        let _ = write!(
            svg,
            "<path d=\"M{LEFT} {0:.1}h{WIDTH}\" stroke=\"#e5e7eb\"/>\
             <text x=\"{1:.0}\" y=\"{2:.1}\" text-anchor=\"end\">{value:.0}</text>",
            y(value),
            LEFT - 6.0,
            y(value) + 4.0
        );
    }
    for hour in (0..=24_u32).step_by(3) {
        let _ = write!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{hour}:00</text>",
            LEFT + WIDTH * f64::from(hour) / 24.0,
            top + HEIGHT + 16.0
        );
    }
    let count = ours.course.len();
    let mut area = format!("M{LEFT} {:.1}", top + HEIGHT);
    for (index, (demand, ..)) in ours.course.iter().enumerate() {
        let _ = write!(area, "L{:.1} {:.1}", x(index, count), y(*demand));
    }
    let _ = write!(svg, "<path d=\"{area}L{:.1} {:.1}Z\" fill=\"#cfd8e3\"/>", LEFT + WIDTH, top + HEIGHT);
    for (course, style) in [
        (&theirs.course, "stroke=\"#c2410c\" stroke-width=\"1.5\" stroke-dasharray=\"4 3\""),
        (&ours.course, "stroke=\"#0b6e4f\" stroke-width=\"2\""),
    ] {
        let mut steps = String::new();
        for (index, (_, serving, _)) in course.iter().enumerate() {
            let place = (x(index, course.len()), y(*serving));
            let _ = if index == 0 {
                write!(steps, "M{:.1} {:.1}", place.0, place.1)
            } else {
                write!(steps, "H{:.1}V{:.1}", place.0, place.1)
            };
        }
        let _ = write!(svg, "<path d=\"{steps}\" fill=\"none\" {style}/>");
    }
}
