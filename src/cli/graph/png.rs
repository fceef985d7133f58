//! Draws a scene as PNG: lines and discs by tiny-skia, letters from a built-in bitmap font.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};
use tiny_skia::{
    Color, FillRule, Paint, PathBuilder, Pixmap, PremultipliedColorU8, Stroke, StrokeDash,
    Transform,
};

use crate::graph::shapes::{LARGE, Scene, Shape};

/// Longest side in pixels. Larger scenes are scaled down, because viewers do not show them.
const MAX_SIDE: f64 = 12_000.0;
/// Width of the white edge of letters in pixels.
const EDGE: i64 = 2;

/// Errors: one sentence.
pub(super) fn draw(scene: &Scene) -> Result<Vec<u8>, String> {
    let [width, height] = scene.size;
    let scale = (MAX_SIDE / width.max(height)).min(1.0);
    let side = |length: f64| (length * scale).ceil().clamp(1.0, MAX_SIDE) as u32;
    let mut sheet = Pixmap::new(side(width), side(height)).ok_or("the picture is too large")?;
    sheet.fill(Color::WHITE);
    for shape in &scene.shapes {
        put(&mut sheet, shape, scale);
    }
    sheet.encode_png().map_err(|error| error.to_string())
}

fn put(sheet: &mut Pixmap, shape: &Shape, scale: f64) {
    let transform = Transform::from_scale(scale as f32, scale as f32);
    match shape {
        Shape::Line {
            ends: [from, to],
            colour,
            width,
            dashed,
        } => {
            let mut path = PathBuilder::new();
            path.move_to(from[0] as f32, from[1] as f32);
            path.line_to(to[0] as f32, to[1] as f32);
            let stroke = Stroke {
                width: *width as f32,
                dash: dashed
                    .then(|| StrokeDash::new(vec![7.0, 5.0], 0.0))
                    .flatten(),
                ..Stroke::default()
            };
            if let Some(path) = path.finish() {
                sheet.stroke_path(&path, &paint(colour), &stroke, transform, None);
            }
        }
        Shape::Disc {
            at,
            radius,
            colour,
            hollow,
        } => {
            let Some(path) = PathBuilder::from_circle(at[0] as f32, at[1] as f32, *radius as f32)
            else {
                return;
            };
            let fill = if *hollow { "#ffffff" } else { colour };
            sheet.fill_path(&path, &paint(fill), FillRule::Winding, transform, None);
            let stroke = Stroke {
                width: 2.0,
                ..Stroke::default()
            };
            sheet.stroke_path(&path, &paint(colour), &stroke, transform, None);
        }
        Shape::Words {
            at,
            size,
            centred,
            colour,
            text,
        } => words(
            sheet,
            text,
            at.map(|x| x * scale),
            *size,
            *centred,
            rgb(colour),
        ),
    }
}

fn paint(colour: &str) -> Paint<'static> {
    let [r, g, b] = rgb(colour);
    let mut paint = Paint::default();
    paint.set_color_rgba8(r, g, b, 255);
    paint.anti_alias = true;
    paint
}

/// `#rrggbb`
fn rgb(colour: &str) -> [u8; 3] {
    let number = u32::from_str_radix(colour.trim_start_matches('#'), 16).unwrap_or_default();
    let [_, r, g, b] = number.to_be_bytes();
    [r, g, b]
}

/// Draws letters with a white edge, so that they are readable on lines.
fn words(sheet: &mut Pixmap, text: &str, at: [f64; 2], size: f64, centred: bool, colour: [u8; 3]) {
    let height = if size < LARGE {
        RasterHeight::Size16
    } else {
        RasterHeight::Size20
    };
    let wide = get_raster_width(FontWeight::Regular, height);
    let all = (text.chars().count() * wide) as f64;
    let left = (if centred { at[0] - all / 2.0 } else { at[0] }).round() as i64;
    // The boxes of the font end below the base line.
    let top = (at[1] - size * 0.8).round() as i64;
    let around = (-EDGE..=EDGE).flat_map(|x| (-EDGE..=EDGE).map(move |y| [x, y]));
    let around: Vec<[i64; 2]> = around.collect();
    for (ink, pass) in [([255; 3], &around[..]), (colour, &[[0, 0]])] {
        for (number, letter) in text.chars().enumerate() {
            let raster = get_raster(letter, FontWeight::Regular, height);
            let raster = raster.or_else(|| get_raster('?', FontWeight::Regular, height));
            let Some(raster) = raster else { continue };
            let x = left + (number * wide) as i64;
            for (row, line) in raster.rows().enumerate() {
                for (column, strength) in line.iter().enumerate() {
                    for [dx, dy] in pass {
                        blend(
                            sheet,
                            x + column as i64 + dx,
                            top + row as i64 + dy,
                            ink,
                            *strength,
                        );
                    }
                }
            }
        }
    }
}

fn blend(sheet: &mut Pixmap, x: i64, y: i64, ink: [u8; 3], strength: u8) {
    let (width, height) = (i64::from(sheet.width()), i64::from(sheet.height()));
    if strength == 0 || !(0..width).contains(&x) || !(0..height).contains(&y) {
        return;
    }
    let Ok(at) = usize::try_from(y * width + x) else {
        return;
    };
    let pixel = &mut sheet.pixels_mut()[at];
    let mix = |old: u8, new: u8| {
        let (old, new, strength) = (u32::from(old), u32::from(new), u32::from(strength));
        ((old * (255 - strength) + new * strength) / 255) as u8
    };
    let mixed = [
        mix(pixel.red(), ink[0]),
        mix(pixel.green(), ink[1]),
        mix(pixel.blue(), ink[2]),
    ];
    if let Some(new) = PremultipliedColorU8::from_rgba(mixed[0], mixed[1], mixed[2], 255) {
        *pixel = new;
    }
}
