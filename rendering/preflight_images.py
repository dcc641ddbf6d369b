"""Materials, textures and pictures of a glTF file: valid references, and pictures that Blender can decode within bounds."""

from collections.abc import Iterator
from typing import Any

from rendering.image_header import JPEG, KTX, KTX2, PNG, WEBP, BadImage, image_header
from rendering.preflight_files import Blob, blob_of
from rendering.preflight_geometry import View
from rendering.preflight_json import Document, entries, integer, listed, reference, refuse, table, text_of
from rendering.preflight_limits import PreflightLimits

_READ = (PNG, JPEG, WEBP)
_WEBP_TEXTURE = "EXT_texture_webp"
_SOURCES = (_WEBP_TEXTURE, "KHR_texture_basisu", "MSFT_texture_dds", "EXT_texture_avif")
_DEEPEST_MATERIAL = 8


def check_images(document: Document, views: list[View], resources: dict, limits: PreflightLimits) -> None:
    """Raises FetchError: `bad_reference`, `bad_json`, `bad_image`, `unsupported_image`, `image_too_large`, `too_complex`."""
    pictures = entries(document, "images", most=limits.materials)
    textures = entries(document, "textures", most=limits.materials)
    for number, material in enumerate(entries(document, "materials", most=limits.materials)):
        for where, index in _texture_indices(material, f"materials[{number}]"):
            reference(index, len(textures), where, "textures")
    samplers = len(listed(document, "samplers", most=limits.materials))
    listed(document, "cameras", most=limits.materials)
    shown = set()
    for number, texture in enumerate(textures):
        where = f"textures[{number}]"
        if texture.get("sampler") is not None:
            reference(texture["sampler"], samplers, f"{where}.sampler", "samplers")
        if texture.get("source") is not None:
            shown.add(reference(texture["source"], len(pictures), f"{where}.source", "images"))
        extensions = table(texture, "extensions", f"{where}.")
        for name in _SOURCES:
            source = table(extensions, name, f"{where}.extensions.").get("source")
            if source is not None:
                reference(source, len(pictures), f"{where}.extensions.{name}.source", "images")
                if name == _WEBP_TEXTURE:
                    shown.add(source)
    pixels = 0
    for number, picture in enumerate(pictures):
        blob = _blob(picture, f"images[{number}]", views, resources)
        if number in shown:  # Blender never opens the others
            pixels += _check_picture(picture, blob, f"images[{number}]", limits)
            if pixels > limits.image_pixels:
                refuse("image_too_large", f"{pixels} pixels up to images[{number}], at most {limits.image_pixels} are decoded")


def _texture_indices(part: Any, where: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """(place, index) of every texture that a material names, in extensions too."""
    if not isinstance(part, dict):
        refuse("bad_json", f"{where} is not an object")
    for name, value in part.items():
        if name in ("extras", "name") or not isinstance(value, dict):
            continue
        if name.endswith("Texture"):
            yield f"{where}.{name}.index", value.get("index")
            integer(value, "texCoord", f"{where}.{name}", 0)
        elif depth < _DEEPEST_MATERIAL:
            yield from _texture_indices(value, f"{where}.{name}", depth + 1)


def _blob(picture: Document, where: str, views: list[View], resources: dict) -> Blob | None:
    uri, view = text_of(picture, "uri", where), picture.get("bufferView")
    if uri is not None and view is not None:
        refuse("bad_json", f"{where} has both a uri and a bufferView")
    if uri is not None:
        return blob_of(uri, resources, where)
    if view is None:
        return None
    held = views[reference(view, len(views), f"{where}.bufferView", "bufferViews")]
    return held.blob.part(held.offset, held.length) if held.blob is not None else None


def _check_picture(picture: Document, blob: Blob | None, where: str, limits: PreflightLimits) -> int:
    """Number of pixels of a picture that materials can show."""
    if blob is None or not blob.size:
        refuse("bad_image", f"{where} has no data")
    declared = text_of(picture, "mimeType", where)
    try:
        header = image_header(blob.read, blob.size)
    except BadImage as error:
        refuse("bad_image", f"{where}: {error}")
    if header is None or header.mime in (KTX, KTX2):
        kind = header.mime if header else f"unknown, starts with {blob.read(0, 8)!r}"
        refuse("unsupported_image", f"{where} is {kind}; PNG, JPEG and WebP are read")
    if limits.strict_mime and declared in _READ and declared != header.mime:
        refuse("bad_image", f"{where} is declared as {declared} and is {header.mime}")
    if max(header.width, header.height) > limits.image_side:
        refuse("image_too_large", f"{where} is {header.width} x {header.height} pixels, at most {limits.image_side} a side are decoded")
    return header.width * header.height
