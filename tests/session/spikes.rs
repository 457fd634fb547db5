//! Losses that stand out: the same one again does too, until it is the rule.

use engine::train::spike::RecentLosses;

/// The bound of the command line.
const MOST: f64 = 6.0;

/// After so many losses of about 1.
fn usual(count: u64) -> RecentLosses {
    let mut recent = RecentLosses::default();
    for i in 0..count {
        recent.add(1.0 + 0.05 * (i * 7 % 5) as f64, MOST);
    }
    recent
}

fn stands_out(recent: &mut RecentLosses, loss: f64) -> bool {
    recent.add(loss, MOST).is_some_and(|z| z >= MOST)
}

#[test]
fn a_loss_that_stood_out_stands_out_again() {
    for count in [20, 50, 90] {
        let mut recent = usual(count);
        for time in 1..=3 {
            assert!(stands_out(&mut recent, 10.0), "after {count}, time {time}");
            assert!(!stands_out(&mut recent, 1.1), "after {count}, time {time}");
        }
        let mut recent = usual(count);
        for time in 1..=3 {
            assert!(stands_out(&mut recent, 10.0), "after {count}, time {time} in a row");
        }
    }
}

#[test]
fn a_level_that_lasts_is_got_used_to() {
    for (count, level) in [(20, 2.0), (50, 2.0), (20, 10.0), (50, 10.0)] {
        let mut recent = usual(count);
        let out = (0..50).take_while(|_| stands_out(&mut recent, level)).count();
        assert!((1..20).contains(&out), "{out} losses of {level} after {count} others");
        assert!((0..100).all(|_| !stands_out(&mut recent, level)), "once used to, always");
    }
}

#[test]
fn losses_that_are_put_back_go_on_equal() {
    let mut recent = usual(30);
    recent.add(10.0, MOST);
    let mut restored: RecentLosses = serde_json::from_str(&serde_json::to_string(&recent).unwrap()).unwrap();
    assert_eq!(restored, recent);
    for loss in [10.0, 1.0, 10.0, 3.0] {
        assert_eq!(restored.add(loss, MOST), recent.add(loss, MOST));
    }
    assert_eq!(restored, recent);
}

#[test]
fn without_a_bound_losses_are_kept_as_they_are() {
    let (mut bounded, mut unbounded) = (usual(50), usual(50));
    let first = bounded.add(10.0, MOST);
    assert_eq!(first, unbounded.add(10.0, 0.0));
    assert!(bounded.add(10.0, MOST) > unbounded.add(10.0, 0.0));
}
