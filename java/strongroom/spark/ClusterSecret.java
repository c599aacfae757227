package strongroom.spark;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import org.apache.hadoop.io.Text;
import org.apache.hadoop.security.Credentials;
import org.apache.hadoop.security.UserGroupInformation;
import org.apache.spark.SparkEnv;

/**
 * Takes the cluster secret from standard input into this JVM's Hadoop credentials, where Spark looks first.
 *
 * <p>The secret never stands in an argument, an environment variable, a Spark setting or a file.
 */
public final class ClusterSecret {
  private static final int LENGTH = 64; // 32 bytes in hexadecimal
  private static final Text COOKIE = new Text("sparkCookie"); // SecurityManager.SECRET_LOOKUP_KEY

  private static final String ACCOUNT = "strongroom"; // as SPARK_USER says

  private ClusterSecret() {}

  /** Reads one line of exactly 64 hexadecimal digits and keeps it in the login credentials. */
  static void adopt(InputStream input) throws IOException {
    byte[] secret = new byte[LENGTH];
    for (int i = 0; i < LENGTH; i++) {
      int value = input.read();
      if (Character.digit(value, 16) < 0) {
        throw new IOException("the cluster secret is not 64 hexadecimal digits");
      }
      secret[i] = (byte) value;
    }
    if (input.read() != '\n') {
      throw new IOException("the cluster secret is longer than 64 hexadecimal digits");
    }
    Credentials credentials = new Credentials();
    credentials.addSecretKey(COOKIE, secret);
    // Without a name of its own Hadoop would ask the system for the account's, and a container may run under a number
    // that no list of accounts holds.
    UserGroupInformation.setLoginUser(UserGroupInformation.createRemoteUser(ACCOUNT));
    UserGroupInformation.getCurrentUser().addCredentials(credentials);
  }

  /** Returns whether Spark authenticates with the secret that was adopted, and with nothing else. */
  public static boolean inUse() throws IOException {
    byte[] adopted = UserGroupInformation.getCurrentUser().getCredentials().getSecretKey(COOKIE);
    String used = SparkEnv.get().securityManager().getSecretKey();
    return adopted != null
        && used != null
        && MessageDigest.isEqual(adopted, used.getBytes(StandardCharsets.UTF_8));
  }
}
