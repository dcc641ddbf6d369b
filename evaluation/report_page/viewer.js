// A small viewer for GLB files that the page carries as data: turn, zoom, look at colours, at the bare shape or at normals.
// It draws triangles with base colour factor, texture and vertex colours (glTF 2.0), which is all that a baked mesh has.
// One WebGL context serves all viewers of the page: browsers allow only a few.
"use strict";
(() => {
  const SIZES = { SCALAR: 1, VEC2: 2, VEC3: 3, VEC4: 4 };
  const ATTRIBUTES = { POSITION: 0, NORMAL: 1, TEXCOORD_0: 2, COLOR_0: 3 };
  const MODES = { colour: 0, shape: 1, normals: 2 };
  const FIELD_OF_VIEW = (40 * Math.PI) / 180;
  const START = { azimuth: 0.6, elevation: 0.35, zoom: 0.95 };

  // ---- glTF ----

  const bytesOf = (uri) => Uint8Array.from(atob(uri.slice(uri.indexOf(",") + 1)), (letter) => letter.charCodeAt(0));

  function readGlb(bytes) {
    const words = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    if (bytes.length < 20 || words.getUint32(0, true) !== 0x46546c67) throw new Error("it is not a GLB file");
    const length = words.getUint32(12, true);
    const gltf = JSON.parse(new TextDecoder().decode(bytes.subarray(20, 20 + length)));
    const body = 20 + length + 8 <= bytes.length ? bytes.subarray(20 + length + 8) : new Uint8Array();
    const packed = (gltf.extensionsRequired || []).filter((name) => /draco|meshopt|basisu/.test(name));
    if (packed.length) throw new Error(`it is compressed (${packed.join(", ")})`);
    return { gltf, body };
  }

  const product = (a, b) =>
    Array.from({ length: 16 }, (_, i) => [0, 1, 2, 3].reduce((sum, k) => sum + a[4 * k + (i % 4)] * b[4 * Math.floor(i / 4) + k], 0));

  function matrixOf(node) {
    if (node.matrix) return node.matrix;
    const [x, y, z, w] = node.rotation || [0, 0, 0, 1];
    const [sx, sy, sz] = node.scale || [1, 1, 1];
    const [tx, ty, tz] = node.translation || [0, 0, 0];
    return [
      sx * (1 - 2 * (y * y + z * z)), sx * 2 * (x * y + z * w), sx * 2 * (x * z - y * w), 0,
      sy * 2 * (x * y - z * w), sy * (1 - 2 * (x * x + z * z)), sy * 2 * (y * z + x * w), 0,
      sz * 2 * (x * z + y * w), sz * 2 * (y * z - x * w), sz * (1 - 2 * (x * x + y * y)), 0,
      tx, ty, tz, 1,
    ];
  }

  const IDENTITY = matrixOf({});

  function partsOf(gltf) {
    const parts = [];
    const visit = (index, above) => {
      const node = gltf.nodes[index], matrix = product(above, matrixOf(node));
      for (const primitive of node.mesh === undefined ? [] : gltf.meshes[node.mesh].primitives) {
        if ((primitive.mode ?? 4) === 4 && primitive.attributes.POSITION !== undefined) parts.push({ primitive, matrix });
      }
      for (const child of node.children || []) visit(child, matrix);
    };
    const scene = (gltf.scenes || [])[gltf.scene || 0];
    for (const root of scene ? scene.nodes || [] : (gltf.nodes || []).keys()) visit(root, IDENTITY);
    if (!parts.length) throw new Error("it holds no triangles");
    return parts;
  }

  const placed = (matrix, point) =>
    [0, 1, 2].map((axis) => matrix[axis] * point[0] + matrix[4 + axis] * point[1] + matrix[8 + axis] * point[2] + matrix[12 + axis]);

  function boundsOf({ gltf, body }, parts) {
    const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
    for (const { primitive, matrix } of parts) {
      const { min, max } = gltf.accessors[primitive.attributes.POSITION];
      for (let corner = 0; corner < 8; corner++) {
        const point = placed(matrix, [0, 1, 2].map((axis) => ((corner >> axis) & 1 ? max : min)[axis]));
        for (let axis = 0; axis < 3; axis++) {
          low[axis] = Math.min(low[axis], point[axis]);
          high[axis] = Math.max(high[axis], point[axis]);
        }
      }
    }
    const centre = low.map((value, axis) => (value + high[axis]) / 2);
    // The farthest vertex, which is nearer than the box's corner.
    let radius = 0;
    for (const { primitive, matrix } of parts) {
      const { bufferView, byteOffset = 0, count, componentType } = gltf.accessors[primitive.attributes.POSITION];
      const view = gltf.bufferViews[bufferView];
      if (!view || componentType !== 5126) return { centre, radius: Math.hypot(...high.map((value, axis) => value - low[axis])) / 2 || 1 };
      const words = new DataView(body.buffer, body.byteOffset + (view.byteOffset || 0) + byteOffset);
      for (let i = 0, at = 0; i < count; i++, at += view.byteStride || 12) {
        const point = placed(matrix, [words.getFloat32(at, true), words.getFloat32(at + 4, true), words.getFloat32(at + 8, true)]);
        radius = Math.max(radius, Math.hypot(point[0] - centre[0], point[1] - centre[1], point[2] - centre[2]));
      }
    }
    return { centre, radius: radius || 1 };
  }

  async function picturesOf({ gltf, body }) {
    return Promise.all((gltf.images || []).map(async (image) => {
      let bytes, type = image.mimeType;
      if (image.bufferView !== undefined) {
        const view = gltf.bufferViews[image.bufferView], start = view.byteOffset || 0;
        bytes = body.subarray(start, start + view.byteLength);
      } else if ((image.uri || "").startsWith("data:")) {
        [bytes, type] = [bytesOf(image.uri), image.uri.slice(5, image.uri.indexOf(";"))];
      } else return null; // a file beside the GLB, which a page cannot read
      return createImageBitmap(new Blob([bytes], { type }), { premultiplyAlpha: "none", colorSpaceConversion: "none" });
    }));
  }

  async function load(uri) {
    const glb = readGlb(bytesOf(uri));
    const parts = partsOf(glb.gltf);
    return { ...glb, parts, ...boundsOf(glb, parts), pictures: await picturesOf(glb), uploaded: null };
  }

  // ---- WebGL ----

  const VERTEX = `#version 300 es
    layout(location = 0) in vec3 position; layout(location = 1) in vec3 normal;
    layout(location = 2) in vec2 texcoord; layout(location = 3) in vec4 colour;
    uniform mat4 model, projection;
    out vec3 place; out vec3 facing; out vec2 uv; out vec4 tint;
    void main() {
      vec4 world = model * vec4(position, 1.0);
      place = world.xyz;
      facing = transpose(inverse(mat3(model))) * normal;
      uv = texcoord;
      tint = colour;
      gl_Position = projection * world;
    }`;
  // Colours are linear until the end: vertex colours and factors are so in glTF, textures are decoded by the sampler.
  const FRAGMENT = `#version 300 es
    precision highp float;
    in vec3 place; in vec3 facing; in vec2 uv; in vec4 tint;
    uniform vec4 factor; uniform sampler2D image; uniform bool textured, smoothNormals; uniform float cutoff; uniform int mode;
    uniform vec3 eye, light;
    out vec4 result;
    void main() {
      vec4 base = factor * tint;
      if (textured) base *= texture(image, uv);
      if (base.a < cutoff) discard;
      vec3 towards = normalize(eye - place);
      vec3 n = normalize(smoothNormals ? facing : cross(dFdx(place), dFdy(place)));
      if (dot(n, towards) < 0.0) n = -n;
      vec3 c = base.rgb * (0.72 + 0.28 * dot(n, towards));
      if (mode == 1) c = vec3(0.55) * (0.16 + 0.84 * max(dot(n, light), 0.0) + 0.15 * max(dot(n, towards), 0.0));
      c = mix(12.92 * c, 1.055 * pow(max(c, 0.0031308), vec3(1.0 / 2.4)) - 0.055, step(0.0031308, c));
      if (mode == 2) c = 0.5 + 0.5 * vec3(n.x, -n.z, n.y); // our world is Z up, glTF is Y up
      result = vec4(c, 1.0);
    }`;
  const UNIFORMS = ["model", "projection", "factor", "image", "textured", "smoothNormals", "cutoff", "mode", "eye", "light"];

  let shared = null; // { canvas, gl, at } of the one context

  function context() {
    if (shared) return shared;
    const canvas = document.createElement("canvas");
    const gl = canvas.getContext("webgl2", { antialias: true, alpha: true });
    if (!gl) return null;
    canvas.addEventListener("webglcontextlost", (event) => event.preventDefault());
    canvas.addEventListener("webglcontextrestored", () => {
      shared = null;
      for (const viewer of viewers) viewer.forget();
    });
    const program = gl.createProgram();
    for (const [type, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
      const shader = gl.createShader(type);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) || "the shader failed");
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    const at = Object.fromEntries(UNIFORMS.map((name) => [name, gl.getUniformLocation(program, name)]));
    shared = { canvas, gl, at };
    return shared;
  }

  function upload(gl, model) {
    const { gltf, body } = model;
    const buffers = new Map();
    const buffer = (target, index) => {
      const key = `${target} ${index}`;
      if (!buffers.has(key)) {
        const view = gltf.bufferViews[index], start = view.byteOffset || 0;
        buffers.set(key, gl.createBuffer());
        gl.bindBuffer(target, buffers.get(key));
        gl.bufferData(target, body.subarray(start, start + view.byteLength), gl.STATIC_DRAW);
      }
      gl.bindBuffer(target, buffers.get(key));
    };
    const textures = model.pictures.map((picture) => {
      if (!picture) return null;
      const texture = gl.createTexture();
      gl.bindTexture(gl.TEXTURE_2D, texture);
      gl.texImage2D(gl.TEXTURE_2D, 0, gl.SRGB8_ALPHA8, gl.RGBA, gl.UNSIGNED_BYTE, picture);
      gl.generateMipmap(gl.TEXTURE_2D);
      return texture;
    });
    return model.parts.map(({ primitive, matrix }) => {
      const array = gl.createVertexArray();
      gl.bindVertexArray(array);
      const has = {};
      for (const [name, location] of Object.entries(ATTRIBUTES)) {
        const accessor = gltf.accessors[primitive.attributes[name]];
        has[name] = accessor !== undefined && accessor.bufferView !== undefined && !accessor.sparse;
        if (!has[name]) continue;
        buffer(gl.ARRAY_BUFFER, accessor.bufferView);
        const stride = gltf.bufferViews[accessor.bufferView].byteStride || 0;
        gl.enableVertexAttribArray(location);
        gl.vertexAttribPointer(location, SIZES[accessor.type], accessor.componentType, !!accessor.normalized, stride, accessor.byteOffset || 0);
      }
      const indices = gltf.accessors[primitive.indices];
      if (indices) buffer(gl.ELEMENT_ARRAY_BUFFER, indices.bufferView);
      const material = (gltf.materials || [])[primitive.material] || {};
      const paint = material.pbrMetallicRoughness || {};
      const source = paint.baseColorTexture && gltf.textures[paint.baseColorTexture.index];
      return {
        array, matrix, has, indices,
        count: (indices || gltf.accessors[primitive.attributes.POSITION]).count,
        factor: paint.baseColorFactor || [1, 1, 1, 1],
        texture: source && has.TEXCOORD_0 ? textures[source.source] || null : null,
        sampler: (source && (gltf.samplers || [])[source.sampler]) || {},
        cutoff: { MASK: material.alphaCutoff ?? 0.5, BLEND: 0.5 }[material.alphaMode] ?? -1,
      };
    });
  }

  function draw(target, model, camera, mode) {
    const { canvas, gl, at } = context();
    const width = target.width, height = target.height;
    canvas.width = width;
    canvas.height = height;
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    model.uploaded ||= upload(gl, model);

    // The sphere round the object fills the smaller side; azimuth 0 looks at the front (+Z of glTF).
    const distance = ((1.05 * model.radius) / Math.sin(FIELD_OF_VIEW / 2)) * camera.zoom;
    const [sa, ca, se, ce] = [Math.sin(camera.azimuth), Math.cos(camera.azimuth), Math.sin(camera.elevation), Math.cos(camera.elevation)];
    const back = [sa * ce, se, ca * ce], rightward = [ca, 0, -sa], up = [-sa * se, ce, -ca * se];
    const eye = model.centre.map((value, axis) => value + distance * back[axis]);
    const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
    const look = [0, 1, 2].flatMap((axis) => [rightward[axis], up[axis], back[axis], 0]).concat(-dot(rightward, eye), -dot(up, eye), -dot(back, eye), 1);
    const near = Math.max(distance - 1.2 * model.radius, distance * 0.01), far = distance + 1.2 * model.radius;
    const focal = 1 / Math.tan(FIELD_OF_VIEW / 2), smaller = Math.min(width, height);
    const lens = [
      (focal * smaller) / width, 0, 0, 0, 0, (focal * smaller) / height, 0, 0,
      0, 0, (near + far) / (near - far), -1, 0, 0, (2 * near * far) / (near - far), 0,
    ];
    gl.uniformMatrix4fv(at.projection, false, product(lens, look));
    gl.uniform3fv(at.eye, eye);
    const light = [0, 1, 2].map((axis) => 0.72 * back[axis] - 0.42 * rightward[axis] + 0.55 * up[axis]);
    gl.uniform3fv(at.light, light);
    gl.uniform1i(at.mode, mode);
    gl.uniform1i(at.image, 0);
    for (const part of model.uploaded) {
      gl.bindVertexArray(part.array);
      // Without colours of their own, all vertices are white; the value is the context's, not the array's.
      gl.vertexAttrib4f(ATTRIBUTES.COLOR_0, 1, 1, 1, 1);
      gl.uniformMatrix4fv(at.model, false, part.matrix);
      gl.uniform4fv(at.factor, part.factor);
      gl.uniform1f(at.cutoff, part.cutoff);
      gl.uniform1i(at.smoothNormals, part.has.NORMAL ? 1 : 0);
      gl.uniform1i(at.textured, part.texture ? 1 : 0);
      if (part.texture) {
        gl.bindTexture(gl.TEXTURE_2D, part.texture);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, part.sampler.wrapS || gl.REPEAT);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, part.sampler.wrapT || gl.REPEAT);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
        gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MAG_FILTER, part.sampler.magFilter || gl.LINEAR);
      }
      if (part.indices) gl.drawElements(gl.TRIANGLES, part.count, part.indices.componentType, part.indices.byteOffset || 0);
      else gl.drawArrays(gl.TRIANGLES, 0, part.count);
    }
    const paper = target.getContext("2d");
    paper.clearRect(0, 0, width, height);
    paper.drawImage(canvas, 0, 0);
  }

  // ---- one viewer ----

  class Viewer {
    constructor(figure) {
      this.canvas = figure.querySelector("canvas");
      this.note = figure.querySelector(".hint");
      this.links = [...figure.querySelectorAll("a.glb")];
      this.models = this.links.map(() => null);
      this.shown = 0; // which link's mesh
      this.mode = MODES.colour;
      this.camera = { ...START };
      this.fingers = new Map();
      this.waiting = false;
      figure.querySelectorAll("button").forEach((button) => {
        button.addEventListener("click", () => {
          figure.querySelectorAll("button").forEach((other) => other.setAttribute("aria-pressed", String(other === button)));
          this.mode = MODES[button.dataset.mode];
          this.shown = Number(button.dataset.mesh);
          this.ask();
        });
      });
      this.listen();
      new IntersectionObserver((entries) => {
        this.visible = entries[entries.length - 1].isIntersecting;
        if (this.visible) this.ask();
      }, { rootMargin: "200px" }).observe(this.canvas);
      new ResizeObserver(() => this.ask()).observe(this.canvas);
    }

    forget() {
      this.models.forEach((model) => model && (model.uploaded = null));
      this.ask();
    }

    /** Draw with the next frame. */
    ask() {
      if (this.waiting || !this.visible) return;
      this.waiting = true;
      requestAnimationFrame(async () => {
        try {
          if (!context()) throw new Error("this browser has no WebGL 2");
          const shown = this.shown;
          this.models[shown] ||= await load(this.links[shown].getAttribute("href"));
          this.waiting = false;
          if (shown !== this.shown) return this.ask();
          const sharp = Math.min(window.devicePixelRatio || 1, 2);
          this.canvas.width = Math.max(1, Math.round(this.canvas.clientWidth * sharp));
          this.canvas.height = Math.max(1, Math.round(this.canvas.clientHeight * sharp));
          draw(this.canvas, this.models[shown], this.camera, this.mode);
          this.canvas.dataset.drawn = "yes";
        } catch (error) {
          this.note.textContent = `The mesh cannot be drawn here: ${error.message}.`;
        }
      });
    }

    turn(across, down) {
      this.camera.azimuth -= across;
      this.camera.elevation = Math.max(-1.55, Math.min(1.55, this.camera.elevation + down));
      this.ask();
    }

    zoom(factor) {
      this.camera.zoom = Math.max(0.2, Math.min(4, this.camera.zoom * factor));
      this.ask();
    }

    listen() {
      const { canvas, fingers } = this;
      const spread = () => {
        const [a, b] = [...fingers.values()];
        return Math.hypot(a.x - b.x, a.y - b.y);
      };
      canvas.addEventListener("pointerdown", (event) => {
        canvas.setPointerCapture(event.pointerId);
        fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      });
      canvas.addEventListener("pointermove", (event) => {
        const before = fingers.get(event.pointerId);
        if (!before) return;
        const apart = fingers.size === 2 ? spread() : 0;
        fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
        if (fingers.size === 1) this.turn((event.clientX - before.x) / 110, (event.clientY - before.y) / 110);
        else if (fingers.size === 2 && spread() > 0) this.zoom(apart / spread());
      });
      for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, (event) => fingers.delete(event.pointerId));
      // The wheel scrolls the page until the viewer was clicked, or with Ctrl.
      canvas.addEventListener("wheel", (event) => {
        if (document.activeElement !== canvas && !event.ctrlKey) return;
        event.preventDefault();
        this.zoom(Math.exp(event.deltaY / 500));
      }, { passive: false });
      canvas.addEventListener("dblclick", () => {
        this.camera = { ...START };
        this.ask();
      });
      canvas.addEventListener("keydown", (event) => {
        const act = {
          ArrowLeft: () => this.turn(0.15, 0), ArrowRight: () => this.turn(-0.15, 0),
          ArrowUp: () => this.turn(0, 0.15), ArrowDown: () => this.turn(0, -0.15),
          "+": () => this.zoom(0.85), "-": () => this.zoom(1 / 0.85),
        }[event.key];
        if (!act) return;
        event.preventDefault();
        act();
      });
    }
  }

  const viewers = [...document.querySelectorAll("figure.viewer")].map((figure) => new Viewer(figure));
})();
