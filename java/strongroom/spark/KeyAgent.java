package strongroom.spark;

import java.io.IOException;
import java.net.UnixDomainSocketAddress;
import java.nio.ByteBuffer;
import java.nio.channels.SelectionKey;
import java.nio.channels.Selector;
import java.nio.channels.SocketChannel;
import java.nio.charset.StandardCharsets;
import java.util.Base64;
import java.util.concurrent.ConcurrentHashMap;
import org.apache.parquet.crypto.KeyAccessDeniedException;

/**
 * Asks the attested process beside this JVM for a key: {@code KEY id} gives {@code OK base64} or {@code NO reason}.
 *
 * <p>The answer is remembered for a few seconds, so that one file with many columns is not a storm of questions, and a
 * withdrawn key is soon forgotten.
 */
final class KeyAgent {
  private static final int KEY_BYTES = 32;
  private static final int MAX_LINE = 4096;
  private static final long DEADLINE_NS = 10_000_000_000L;
  private static final long MEMORY_NS = 5_000_000_000L;
  private static final String SOCKET = "strongroom.agent.socket";
  private static final ConcurrentHashMap<String, Answer> ANSWERS = new ConcurrentHashMap<>();

  private record Answer(byte[] key, long until) {}

  private KeyAgent() {}

  static byte[] key(String id) {
    Answer known = ANSWERS.get(id);
    long now = System.nanoTime();
    if (known != null && known.until - now > 0) {
      return known.key;
    }
    ANSWERS.remove(id);
    byte[] key = parse(id, ask(id));
    ANSWERS.put(id, new Answer(key, now + MEMORY_NS));
    return key;
  }

  private static byte[] parse(String id, String line) {
    if (!line.startsWith("OK ")) {
      String reason = line.startsWith("NO ") ? line.substring(3) : "the key agent answered nonsense";
      throw new KeyAccessDeniedException("no key " + id + ": " + reason);
    }
    byte[] key;
    try {
      key = Base64.getDecoder().decode(line.substring(3));
    } catch (IllegalArgumentException error) {
      throw new KeyAccessDeniedException("no key " + id + ": the key agent's answer is not base64");
    }
    if (key.length != KEY_BYTES) {
      throw new KeyAccessDeniedException("no key " + id + ": it does not have 32 bytes");
    }
    return key;
  }

  private static String ask(String id) {
    String socket = System.getProperty(SOCKET, "");
    if (socket.isEmpty() || id.indexOf('\n') >= 0) {
      throw new KeyAccessDeniedException("no key " + id + ": this process has no key agent to ask");
    }
    long end = System.nanoTime() + DEADLINE_NS;
    try (SocketChannel channel = SocketChannel.open(UnixDomainSocketAddress.of(socket));
        Selector selector = Selector.open()) {
      channel.configureBlocking(false);
      ByteBuffer question = ByteBuffer.wrap(("KEY " + id + "\n").getBytes(StandardCharsets.UTF_8));
      SelectionKey ready = channel.register(selector, SelectionKey.OP_WRITE);
      while (question.hasRemaining()) {
        await(selector, end);
        channel.write(question);
      }
      ready.interestOps(SelectionKey.OP_READ);
      ByteBuffer answer = ByteBuffer.allocate(MAX_LINE);
      while (answer.position() == 0 || answer.get(answer.position() - 1) != '\n') {
        await(selector, end);
        if (!answer.hasRemaining() || channel.read(answer) < 0) {
          throw new IOException("the answer is cut short");
        }
      }
      return new String(answer.array(), 0, answer.position() - 1, StandardCharsets.UTF_8);
    } catch (IOException error) {
      throw new KeyAccessDeniedException("no key " + id + ": " + error.getMessage());
    }
  }

  private static void await(Selector selector, long end) throws IOException {
    long left = (end - System.nanoTime()) / 1_000_000;
    if (left <= 0 || selector.select(left) == 0) {
      throw new IOException("the key agent did not answer in time");
    }
    selector.selectedKeys().clear();
  }
}
